"""An image file as packing stores it: its central square as a JPEG of 256 x 256 pixels.

Two processes of equal `versions` make equal bytes, and so equal pixels, of equal files.
"""

import contextlib

import numpy as np
from PIL import __version__ as pillow

from ..errors import BadImage
from ..spec import STORED_SIZE
from . import image_file, jpeg, limits, pixels
from .pixels import Rgb

QUALITY = 90
FORM = f"{STORED_SIZE}x{STORED_SIZE} JPEG quality {QUALITY} 4:2:0"


def stored_jpeg(data: bytes) -> tuple[bytes, bool]:
    """The JPEG to store of an image file's bytes, and True if the decoder warned. Raises BadImage with the reason.

    Raises MemoryError only if the machine is out of memory, not if the image takes more than one may.
    """
    with contextlib.suppress(MemoryError):
        rgb, warned = image_file.decode(data)
        return jpeg.encode(pixels.centre_square(rgb), QUALITY), warned
    # Everything is freed by now. If as much as an image may take can be had, this one took more.
    np.empty(limits.MAX_BYTES - len(data), np.uint8)
    raise BadImage(f"it takes more than {limits.MAX_BYTES >> 20} MiB to decode, whatever its header says")


def stored_pixels(data: bytes) -> Rgb:
    """256 x 256 x 3 RGB uint8 of an image file's bytes, as a loader decodes it once packed.

    Raises as `stored_jpeg` does.
    """
    stored, _ = stored_jpeg(data)
    return jpeg.decode(stored)


def versions() -> dict[str, str]:
    """The libraries that decide the stored pixels."""
    return {"decoder": jpeg.decoder(), "resize": pixels.version(), "others": f"Pillow {pillow}"}
