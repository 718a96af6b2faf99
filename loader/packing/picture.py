"""Whatever a photo collection holds, decoded to RGB: JPEG by libjpeg-turbo, all else by Pillow.

Decided here, so that it is the same everywhere:
- EXIF is not read: pictures are not rotated.
- Transparent parts are laid over white. Of an animation the first picture counts. 16 bits a channel become the upper 8.
- CMYK and YCCK go through Pillow, which knows Adobe's inverted inks.
- A JPEG that ends early, or whose data break off inside, is bad: libjpeg paints the rest grey. One with left-over
  bytes before a marker, or an odd but readable header, is good: it is decoded, and counted as `warned`. Left-over
  bytes before a restart marker are damage within the picture, so those are bad.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from common.errors import BadImage
from loader import jpeg, limits

# Pillow refuses twice as many, also of a picture within a picture, as icons have it.
Image.MAX_IMAGE_PIXELS = limits.MAX_PIXELS // 2

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "ICO")

# What libjpeg says first of a picture that is all there.
_HARMLESS = re.compile(
    r"extraneous bytes before marker 0x(?!d[0-7])"
    r"|Invalid SOS parameters for sequential JPEG"
    r"|unknown JFIF revision number"
    r"|Unknown Adobe color transform code"
)
_NOT_FOR_TURBOJPEG = "Unsupported color conversion request"  # CMYK and YCCK

Rgb = npt.NDArray[np.uint8]  # height x width x 3


def decode(data: bytes) -> tuple[Rgb, bool]:
    """Height x width x 3 RGB uint8, and whether libjpeg warned of something harmless.

    Raises BadImage with the reason; before any pixel is allocated where it would cost more than `limits` allows.
    """
    if not data:
        raise BadImage("the file is empty")
    if not data.startswith(b"\xff\xd8"):
        return _decode_with_pillow(data), False
    try:
        return jpeg.decode(data), False
    except BadImage as error:
        reason = str(error)
        warned = _HARMLESS.search(reason) is not None
        if not warned and reason != _NOT_FOR_TURBOJPEG:
            raise
    # Pillow passes over the warning and still refuses a file that ends early, which a first warning would hide.
    return _decode_with_pillow(data), warned


def _decode_with_pillow(data: bytes) -> Rgb:
    with _any_failure_is_a_bad_image(data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.format == "JPEG":
                limits.check_jpeg(data, picture.height, picture.width)
            limits.check_size(picture.height, picture.width)
            return np.ascontiguousarray(_rgb(picture))


@contextlib.contextmanager
def _any_failure_is_a_bad_image(data: bytes) -> Iterator[None]:
    """Pillow raises nearly anything on a damaged file: SyntaxError, struct.error, IndexError, EOFError..."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not recognised as a picture: it begins with {data[:8]!r}") from None
    except Exception as error:
        raise BadImage(f"{error}" or type(error).__name__) from None


def _rgb(picture: Image.Image) -> Rgb:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise BadImage("32 bits a pixel, of unknown range")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        picture = Image.alpha_composite(white, rgba)
    return np.asarray(picture.convert("RGB"))
