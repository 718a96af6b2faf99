"""JPEG libraries of equal pixels and bytes: the system's libturbojpeg or, if that is missing, simplejpeg's.

A warning of libjpeg is an error here: it paints the rest of the image grey.
"""

import ctypes
import functools
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import turbojpeg

from ..errors import BadImage, UsageError

Rgb = npt.NDArray[np.uint8]  # height x width x 3

_UNSUPPORTED = "Unsupported color conversion request"  # libjpeg-turbo's words for CMYK and YCCK


class Codec(Protocol):
    """A JPEG library. `size` and `decode` raise BadImage with libjpeg's reason."""

    @property
    def name(self) -> str:
        """Name and version, without spaces."""

    def size(self, jpeg: bytes) -> tuple[int, int]:
        """Height and width in pixels, from the header."""

    def decode(self, jpeg: bytes, out: Rgb) -> None:
        """Decode into `out`, C-contiguous and of the image's size."""

    def encode(self, rgb: Rgb, quality: int) -> bytes:
        """Baseline JPEG with 4:2:0 chroma."""


@functools.cache
def codec() -> Codec:
    """The codec of this machine. Raises UsageError if there is none."""
    try:
        return SystemCodec()
    except (OSError, RuntimeError) as error:
        try:
            return BundledCodec()
        except ImportError:
            raise UsageError(
                f'no JPEG codec: libturbojpeg cannot be loaded ({error}); pip install "alexnet[images]", or on Debian'
                " and Ubuntu apt-get install libturbojpeg0"
            ) from None


class SystemCodec:
    """libturbojpeg, found by PyTurboJPEG, which encodes; its own decoding spends 10 to 20 us more an image in Python.

    Each image has a handle of its own: a handle keeps the tables of the image before, and an image that lacks its own
    would be decoded with them.
    """

    def __init__(self) -> None:
        self._codec = turbojpeg.TurboJPEG()
        self.path = _mapped()
        self._calls = library = ctypes.CDLL(str(self.path))
        handle, image = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_ulong)
        library.tjInitDecompress.restype = handle
        library.tjDestroy.argtypes = (handle,)
        library.tjGetErrorStr2.argtypes, library.tjGetErrorStr2.restype = (handle,), ctypes.c_char_p
        library.tjDecompressHeader3.argtypes = (handle, *image, *[ctypes.c_void_p] * 4)
        library.tjDecompress2.argtypes = (handle, *image, ctypes.c_void_p, *[ctypes.c_int] * 5)

    @property
    def name(self) -> str:
        return self.path.name

    def size(self, jpeg: bytes) -> tuple[int, int]:
        handle = self._calls.tjInitDecompress()
        width, height, chroma, colours = (ctypes.c_int() for _ in range(4))
        addresses = [ctypes.addressof(number) for number in (width, height, chroma, colours)]
        self._finish(handle, self._calls.tjDecompressHeader3(handle, jpeg, len(jpeg), *addresses))
        return height.value, width.value

    def decode(self, jpeg: bytes, out: Rgb) -> None:
        height, width, _ = out.shape
        handle = self._calls.tjInitDecompress()
        target = (out.__array_interface__["data"][0], width, 3 * width, height, turbojpeg.TJPF_RGB)
        status = self._calls.tjDecompress2(handle, jpeg, len(jpeg), *target, turbojpeg.TJFLAG_STOPONWARNING)
        self._finish(handle, status)

    def encode(self, rgb: Rgb, quality: int) -> bytes:
        form = {"pixel_format": turbojpeg.TJPF_RGB, "jpeg_subsample": turbojpeg.TJSAMP_420}
        jpeg: bytes = self._codec.encode(rgb, quality=quality, **form)
        return jpeg

    def _finish(self, handle: int, status: int) -> None:
        reason: bytes = b"" if status == 0 else self._calls.tjGetErrorStr2(handle)
        self._calls.tjDestroy(handle)
        if status != 0:
            raise BadImage(reason.decode(errors="replace"))


class BundledCodec:
    """libjpeg-turbo of simplejpeg's wheel. Raises ImportError if that is not installed."""

    def __init__(self) -> None:
        import simplejpeg

        self._library = simplejpeg
        self.name = f"simplejpeg-{simplejpeg.__version__}"

    def size(self, jpeg: bytes) -> tuple[int, int]:
        height, width, _ = self._header(jpeg)
        return height, width

    def decode(self, jpeg: bytes, out: Rgb) -> None:
        if self._header(jpeg)[2] in ("CMYK", "YCCK"):  # which simplejpeg would convert, ignoring Adobe's inverted inks
            raise BadImage(_UNSUPPORTED)
        try:
            self._library.decode_jpeg(jpeg, "RGB", buffer=out)
        except ValueError as error:
            raise BadImage(str(error)) from None

    def encode(self, rgb: Rgb, quality: int) -> bytes:
        jpeg: bytes = self._library.encode_jpeg(rgb, quality, "RGB", "420")
        return jpeg

    def _header(self, jpeg: bytes) -> tuple[int, int, str]:
        if not jpeg:
            raise BadImage("the file is empty")  # simplejpeg would read past its end
        if len(jpeg) > 1 and not jpeg.startswith(b"\xff\xd8"):  # libjpeg-turbo's own words, which simplejpeg loses
            raise BadImage(f"Not a JPEG file: starts with 0x{jpeg[0]:02x} 0x{jpeg[1]:02x}")
        try:
            height, width, colours, _ = self._library.decode_jpeg_header(jpeg)
        except ValueError as error:
            raise BadImage(str(error)) from None
        except KeyError:  # a chroma sampling that simplejpeg has no name for
            raise BadImage("Could not determine subsampling type for JPEG image") from None
        return int(height), int(width), str(colours)


def _mapped() -> Path:
    """The library's file: ctypes tells a name, which need not be a path."""
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libturbojpeg" in line]
    assert mapped, "PyTurboJPEG has loaded a library of another name"
    return Path(mapped[0])
