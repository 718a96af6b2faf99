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
import struct
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from common.errors import BadImage
from loader import jpeg, limits
from loader.packing.file_kinds import kind_of

# Pillow refuses twice as many, also of a picture within a picture, as icons have it.
Image.MAX_IMAGE_PIXELS = limits.MAX_PIXELS // 2
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a process a core; and each thread of the decoder holds a picture

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "ICO", "AVIF")

# Bytes a pixel: of Pillow's pictures by mode, others take 4; of what decoders hold beside them, the highest measured,
# others hold nothing to speak of.
_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
_DECODER_BYTES = {"WEBP": 9.0, "AVIF": 11.0, "BMP": 2.0}
_JPEG2000_BYTES = 4.5  # for each channel

_WEBP = re.compile(
    rb"RIFF.{4}WEBP(?:VP8 .{7}\x9d\x01\x2a(?P<simple>.{4})|VP8L.{4}\x2f(?P<lossless>.{4})|VP8X.{8}(?P<extended>.{6}))",
    re.DOTALL,
)

_BAND_PIXELS = 1 << 18

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

    Raises BadImage with the reason; before any pixel is allocated if it would cost more than `limits` allows.
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
        _check_webp(data)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_cost(picture, data)
            picture.load()
            return _rgb(picture)


def _check_webp(data: bytes) -> None:
    """Its decoder takes memory for the whole picture when Pillow opens it, before the size can be asked for."""
    match _WEBP.match(data):
        case re.Match(lastgroup="simple") as found:
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", found["simple"]))
        case re.Match(lastgroup="lossless") as found:
            (sides,) = struct.unpack("<I", found["lossless"])
            width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
        case re.Match(lastgroup="extended") as found:
            width, height = (int.from_bytes(found["extended"][at : at + 3], "little") + 1 for at in (0, 3))
        case _:
            return
    limits.check_size(height, width)
    limits.check_memory(height, width, len(data), 4 + limits.RGB_BYTES + _DECODER_BYTES["WEBP"])


def _check_cost(picture: Image.Image, data: bytes) -> None:
    """BadImage if decoding and converting would take too much memory; only the header was read so far."""
    height, width, held = picture.height, picture.width, _PILLOW_BYTES.get(picture.mode, 4)
    if picture.format == "JPEG":
        limits.check_jpeg(data, height, width, held + limits.RGB_BYTES)
        return
    limits.check_size(height, width)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # the piece is gone when the pixels are converted
        beside = max(limits.RGB_BYTES, _piece_bytes(picture) / (height * width))
    else:
        channels = len(picture.getbands()) if picture.format == "JPEG2000" else 0
        beside = limits.RGB_BYTES + _DECODER_BYTES.get(picture.format or "", 0) + _JPEG2000_BYTES * channels
    limits.check_memory(height, width, len(data), held + beside)


def _piece_bytes(picture: TiffImagePlugin.TiffImageFile) -> float:
    """Bytes of the strip or tile that libtiff decodes at a time, which can be the whole picture, or larger."""
    tags = picture.tag_v2
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, picture.height), picture.height)
    width, height = tags.get(TiffImagePlugin.TILEWIDTH, picture.width), tags.get(TiffImagePlugin.TILELENGTH, rows)
    bits = sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return float(width * height * bits / 8)


@contextlib.contextmanager
def _any_failure_is_a_bad_image(data: bytes) -> Iterator[None]:
    """Pillow raises nearly anything on a damaged file: SyntaxError, struct.error, IndexError, EOFError..."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(kind_of(data) or f"not recognised as a picture: it begins with {data[:8]!r}") from None
    except Exception as error:
        raise BadImage(f"{error}" or type(error).__name__) from None


def _rgb(picture: Image.Image) -> Rgb:
    """The whole picture, converted in bands: a picture's copies in other modes would take several times its memory."""
    if picture.mode in ("I", "F"):
        raise BadImage("32 bits a pixel, of unknown range")
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        rgb[top:bottom] = _band(picture.crop((0, top, picture.width, bottom)))
    return rgb


def _band(picture: Image.Image) -> Rgb:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        picture = Image.alpha_composite(white, rgba)
    return np.asarray(picture.convert("RGB"))
