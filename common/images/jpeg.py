"""JPEG encoding, decoding within limits, and the decoder's identity."""

import functools
import hashlib
import re
import zlib
from importlib import resources

import msgpack
import numpy as np

from ..decoder import named
from ..errors import BadImage
from ..spec import STORED_SIZE
from .codec import Rgb, codec
from .limits import check_jpeg

# What `encode` writes for an image of the stored size, up to its data: JFIF header, two quantisation tables, frame
# header of 256 x 256 and three components, four Huffman tables, one scan of all components.
_AS_STORED = re.compile(
    rb"\xff\xd8\xff\xe0\0\x10.{14}(?:\xff\xdb\0\x43.{65}){2}\xff\xc0\0\x11\x08\x01\0\x01\0\x03.{9}"
    rb"(?:\xff\xc4\0\x1f.{29}\xff\xc4\0\xb5.{179}){2}\xff\xda\0\x0c\x03",
    re.DOTALL,
)


def decode(jpeg: bytes, out: Rgb | None = None) -> Rgb:
    """Decode to height x width x 3 uint8, into `out` (C-contiguous) if given.

    Raises BadImage with libjpeg's reason, on a warning too; if the size is not that of `out`; if the image would
    cost more than `limits` allows.
    """
    height, width = (STORED_SIZE, STORED_SIZE) if _is_as_stored(jpeg) else size(jpeg)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3):
        raise BadImage(f"the image is {width}x{height}, not {out.shape[1]}x{out.shape[0]}")
    codec().decode(jpeg, out)
    return out


def size(jpeg: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the header alone. Raises BadImage."""
    height, width = codec().size(jpeg)
    check_jpeg(jpeg, height, width)
    return height, width


def _is_as_stored(jpeg: bytes) -> bool:
    """Return True if it is laid out as `encode` does it.

    It has one scan then: libjpeg refuses another after one of all components.
    """
    return _AS_STORED.match(jpeg) is not None


def encode(rgb: Rgb, quality: int) -> bytes:
    """Encode height x width x 3 RGB uint8 as baseline JPEG with 4:2:0 chroma; quality 1 to 100."""
    return codec().encode(rgb, quality)


@functools.cache
def decoder() -> str:
    """The identity of this decoder, see `common.decoder`: equal digits, equal pixels."""
    packed = resources.files(__package__).joinpath("probes.bin").read_bytes()
    first, *others = [_made_of(jpeg) for jpeg in msgpack.unpackb(zlib.decompress(packed))]
    # The first alone was the identity in earlier versions, whose checkpoints hold it.
    digits = hashlib.blake2b(first, digest_size=4).hexdigest()
    return named(codec().name, digits + hashlib.blake2b(b"".join(others), digest_size=12).hexdigest())


def _made_of(probe: bytes) -> bytes:
    try:
        return decode(probe).tobytes()
    except BadImage:
        return b"refused"
