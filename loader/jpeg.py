"""The JPEG codec: the only file that knows which library decodes.

A warning of libjpeg ("premature end of file", "corrupt data") is an error here: the library goes on and paints the
rest of the picture grey, and a network would learn from that.
"""

import ctypes
import functools
import hashlib
import re
import zlib
from importlib import resources
from pathlib import Path

import msgpack
import numpy as np
import numpy.typing as npt
import turbojpeg

from common.decoder import named
from common.errors import BadImage, UsageError
from common.spec import STORED_SIZE
from loader.limits import check_jpeg

Rgb = npt.NDArray[np.uint8]  # height x width x 3

# What `encode` makes of a picture of the stored size, up to its data: JFIF header, two quantisation tables, frame
# header of 256 x 256 and three components, four Huffman tables, one scan of all components.
_AS_STORED = re.compile(
    rb"\xff\xd8\xff\xe0\0\x10.{14}(?:\xff\xdb\0\x43.{65}){2}\xff\xc0\0\x11\x08\x01\0\x01\0\x03.{9}"
    rb"(?:\xff\xc4\0\x1f.{29}\xff\xc4\0\xb5.{179}){2}\xff\xda\0\x0c\x03",
    re.DOTALL,
)


def decode(jpeg: bytes, out: Rgb | None = None, *, bgr: bool = False) -> Rgb:
    """Decode to height x width x 3 uint8, into `out` (C order) where given; `bgr` swaps the channels.

    Raises BadImage with libjpeg's reason, on its first warning too; where the size is not that of `out`; and, before
    any pixel is allocated, where the picture would cost more than `limits` allows.
    """
    height, width = (STORED_SIZE, STORED_SIZE) if _is_as_stored(jpeg) else size(jpeg)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3):
        raise BadImage(f"the picture is {width}x{height}, not {out.shape[1]}x{out.shape[0]}")
    _library().decode(jpeg, out, turbojpeg.TJPF_BGR if bgr else turbojpeg.TJPF_RGB)
    return out


def size(jpeg: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the header alone. BadImage as `decode` raises it."""
    height, width = _library().size(jpeg)
    check_jpeg(jpeg, height, width)
    return height, width


def _is_as_stored(jpeg: bytes) -> bool:
    """Whether it is laid out as `encode` does it, so that its header need not be parsed twice.

    Such a picture needs no other check: it has one scan, and libjpeg refuses a second after one of all components.
    """
    return _AS_STORED.match(jpeg) is not None


def encode(rgb: Rgb, quality: int) -> bytes:
    """Encode height x width x 3 RGB uint8 as baseline JPEG with 4:2:0 chroma; quality 1 to 100."""
    jpeg: bytes = _codec().encode(
        rgb, quality=quality, pixel_format=turbojpeg.TJPF_RGB, jpeg_subsample=turbojpeg.TJSAMP_420
    )
    return jpeg


@functools.cache
def decoder() -> str:
    """The identity of this decoder, see `common.decoder`: equal digits, equal pixels. It takes 6 ms."""
    packed = resources.files(__package__).joinpath("probes.bin").read_bytes()
    first, *others = [_made_of(jpeg) for jpeg in msgpack.unpackb(zlib.decompress(packed))]
    # The first alone was the identity of programs of before, of whose runs checkpoints tell.
    digits = hashlib.blake2b(first, digest_size=4).hexdigest()
    return named(library_path().name, digits + hashlib.blake2b(b"".join(others), digest_size=12).hexdigest())


def _made_of(probe: bytes) -> bytes:
    """The pixels of a JPEG of `probes.bin` (`tests/bench/probes.py` made it), or that it is refused."""
    try:
        return decode(probe).tobytes()
    except BadImage:
        return b"refused"


class _Library:
    """libjpeg-turbo's own decoding calls.

    Around them PyTurboJPEG spends 10 to 20 microseconds in Python on each picture, beside the 250 that a picture of
    256x256 takes, and tells a warning only through Python's `warnings`.

    Each picture has a handle of its own, at a microsecond: a handle keeps the tables of the picture before, and one
    that lacks its own would be decoded with them, differently from process to process.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        handle, picture = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_ulong)
        library.tjInitDecompress.restype = handle
        library.tjDestroy.argtypes = (handle,)
        library.tjGetErrorStr2.argtypes, library.tjGetErrorStr2.restype = (handle,), ctypes.c_char_p
        library.tjDecompressHeader3.argtypes = (handle, *picture, *[ctypes.c_void_p] * 4)
        library.tjDecompress2.argtypes = (handle, *picture, ctypes.c_void_p, *[ctypes.c_int] * 5)
        self._calls = library

    def size(self, jpeg: bytes) -> tuple[int, int]:
        handle = self._calls.tjInitDecompress()
        width, height, chroma, colours = (ctypes.c_int() for _ in range(4))
        addresses = [ctypes.addressof(number) for number in (width, height, chroma, colours)]
        self._finish(handle, self._calls.tjDecompressHeader3(handle, jpeg, len(jpeg), *addresses))
        return height.value, width.value

    def decode(self, jpeg: bytes, out: Rgb, pixel_format: int) -> None:
        height, width, _ = out.shape
        handle = self._calls.tjInitDecompress()
        target = (out.ctypes.data, width, 3 * width, height, pixel_format)
        status = self._calls.tjDecompress2(handle, jpeg, len(jpeg), *target, turbojpeg.TJFLAG_STOPONWARNING)
        self._finish(handle, status)

    def _finish(self, handle: int, status: int) -> None:
        """Give up the handle; BadImage where the call before went wrong, or warned."""
        reason: bytes = b"" if status == 0 else self._calls.tjGetErrorStr2(handle)
        self._calls.tjDestroy(handle)
        if status != 0:
            raise BadImage(reason.decode(errors="replace"))


@functools.cache
def _library() -> _Library:
    return _Library(ctypes.CDLL(str(library_path())))


@functools.cache
def _codec() -> turbojpeg.TurboJPEG:
    """PyTurboJPEG, which finds the library on every system, and encodes."""
    try:
        return turbojpeg.TurboJPEG()
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"libjpeg-turbo cannot be loaded ({error}); on Debian or Ubuntu: apt-get install libturbojpeg0"
        ) from None


def library_path() -> Path:
    """Of the library that PyTurboJPEG has loaded; its name tells its version, such as libturbojpeg.so.0.2.0."""
    _codec()
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libturbojpeg" in line]
    assert mapped, "PyTurboJPEG has loaded a library of another name"
    return Path(mapped[0])
