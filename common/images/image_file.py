"""Image files of any kind, decoded to RGB: JPEG by libjpeg-turbo, all others by Pillow.

- EXIF is not read: images are not rotated.
- Transparent parts are laid over white. Of an animation the first image counts. 16 bits a channel become the upper 8.
- CMYK and YCCK go through Pillow, which handles Adobe's inverted inks.
- A truncated JPEG is bad: libjpeg paints the rest grey. One with extra bytes before a marker other than a restart's, or
  an odd but readable header, is decoded and counted as `warned`.
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

from ..errors import BadImage
from . import jpeg, limits

# Pillow refuses more than twice this, also for an image within an image, as in icons.
Image.MAX_IMAGE_PIXELS = limits.MAX_PIXELS // 2
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one process a core; and each decoder thread holds an image

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "ICO", "AVIF")

# Bytes a pixel: of Pillow's images by mode, 4 for others; of decoders beside the image, the highest measured, 0 for
# others.
_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
_DECODER_BYTES = {"WEBP": 9.0, "AVIF": 11.0, "BMP": 2.0}
_JPEG2000_BYTES = 4.5  # for each channel

_WEBP = re.compile(
    rb"RIFF.{4}WEBP(?:VP8 .{7}\x9d\x01\x2a(?P<simple>.{4})|VP8L.{4}\x2f(?P<lossless>.{4})|VP8X.{8}(?P<extended>.{6}))",
    re.DOTALL,
)

_BAND_PIXELS = 1 << 18

# The first warning of libjpeg for an image that is complete.
_HARMLESS = re.compile(
    r"extraneous bytes before marker 0x(?!d[0-7])"
    r"|Invalid SOS parameters for sequential JPEG"
    r"|unknown JFIF revision number"
    r"|Unknown Adobe color transform code"
)
_NOT_FOR_TURBOJPEG = "Unsupported color conversion request"  # CMYK and YCCK

_BRANDS = {
    "an AVIF image, which the installed Pillow cannot read": (b"avif", b"avis"),
    "a HEIC image, which is not read": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
_STARTS = (
    (b"\xff\x0a", "a JPEG XL image, which is not read"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image, which is not read"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the image: git lfs pull fetches it"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file, which is not read"),
    (b"8BPS", "a Photoshop file, which is not read"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file, which is not read"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x02", "a pickle, which is not read"),
    (b"\x80\x03", "a pickle, which is not read"),
    (b"\x80\x04", "a pickle, which is not read"),
)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_HTML = re.compile(rb"<!doctype html|<html[\s>]", re.IGNORECASE)
_LOOKED_AT_BYTES = 1024

Rgb = npt.NDArray[np.uint8]  # height x width x 3


def decode(data: bytes) -> tuple[Rgb, bool]:
    """Height x width x 3 RGB uint8, and True if libjpeg gave a harmless warning.

    Raises BadImage with the reason, before any pixel is allocated if the image would exceed `limits`.
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
    # Pillow ignores the warning but refuses a truncated file, which a first warning would hide.
    return _decode_with_pillow(data), warned


def _decode_with_pillow(data: bytes) -> Rgb:
    with _any_failure_is_a_bad_image(data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_webp(data)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_cost(image, data)
            image.load()
            return _rgb(image)


def _check_webp(data: bytes) -> None:
    """Check WebP's header: opening one with Pillow allocates the whole image before its size is known."""
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


def _check_cost(image: Image.Image, data: bytes) -> None:
    height, width, held = image.height, image.width, _PILLOW_BYTES.get(image.mode, 4)
    if image.format == "JPEG":
        limits.check_jpeg(data, height, width, held + limits.RGB_BYTES)
        return
    limits.check_size(height, width)
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # the piece is gone when the pixels are converted
        beside = max(limits.RGB_BYTES, _piece_bytes(image) / (height * width))
    else:
        channels = len(image.getbands()) if image.format == "JPEG2000" else 0
        beside = limits.RGB_BYTES + _DECODER_BYTES.get(image.format or "", 0) + _JPEG2000_BYTES * channels
    limits.check_memory(height, width, len(data), held + beside)


def _piece_bytes(image: TiffImagePlugin.TiffImageFile) -> float:
    """Bytes of the strip or tile that libtiff decodes at a time, at most the whole image, or more."""
    tags = image.tag_v2
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height), image.height)
    width, height = tags.get(TiffImagePlugin.TILEWIDTH, image.width), tags.get(TiffImagePlugin.TILELENGTH, rows)
    bits = sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return float(width * height * bits / 8)


@contextlib.contextmanager
def _any_failure_is_a_bad_image(data: bytes) -> Iterator[None]:
    """Turn any error of Pillow's into BadImage: on damaged files it raises SyntaxError, struct.error, IndexError..."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(_kind_of(data) or f"not recognised as an image: it begins with {data[:8]!r}") from None
    except Exception as error:
        raise BadImage(f"{error}" or type(error).__name__) from None


def _rgb(image: Image.Image) -> Rgb:
    """The image converted in bands: whole copies in other modes would take several times its memory."""
    if image.mode in ("I", "F"):
        raise BadImage("32 bits a pixel, of unknown range")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        rgb[top:bottom] = _band(image.crop((0, top, image.width, bottom)))
    return rgb


def _band(image: Image.Image) -> Rgb:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))


def _kind_of(data: bytes) -> str | None:
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        return next((name for name, brands in _BRANDS.items() if data[8:12] in brands), "a video")
    head = data[:_LOOKED_AT_BYTES]
    if _HTML.search(head):
        return "an HTML page, as servers send it instead of an image"
    if _SVG.search(head):
        return "an SVG drawing, which is not read"
    if not head.strip(b"\0"):
        return "nothing but zeros"
    return None
