import contextlib
import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import BadImage
from common.images import image_file, jpeg
from tests.support.photo_tree import photo

Rgb = npt.NDArray[np.uint8]


def drawn(height: int = 40, width: int = 60) -> Rgb:
    """A smooth image with a different colour in each corner, which any lossy format keeps nearly."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (np.stack([x, y, 1 - x], axis=2) * 200 + 20).astype(np.uint8)


def saved(rgb: Rgb, mode: str, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "file_format", "tolerance"),
    [
        ("RGB", "JPEG", 3),
        ("CMYK", "JPEG", 3),
        ("RGB", "PNG", 0),
        ("RGBA", "PNG", 0),
        ("RGB", "BMP", 0),
        ("RGB", "WEBP", 8),
        ("RGB", "AVIF", 8),
        ("P", "GIF", 40),
        ("RGB", "TIFF", 0),
        ("CMYK", "TIFF", 0),
    ],
)
def test_every_format_gives_the_same_colours_whatever_the_file_is_called(
    mode: str, file_format: str, tolerance: int
) -> None:
    rgb, warned = image_file.decode(saved(drawn(), mode, file_format))
    assert rgb.shape == (40, 60, 3)
    assert not warned
    assert np.abs(rgb.astype(int) - drawn()).mean() <= tolerance


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_a_grey_image_has_three_equal_channels(file_format: str) -> None:
    rgb, _ = image_file.decode(saved(drawn(), "L", file_format))
    assert rgb.shape == (40, 60, 3)
    np.testing.assert_array_equal(rgb[:, :, 0], rgb[:, :, 2])


def test_sixteen_bits_a_channel_become_the_upper_eight() -> None:
    file = io.BytesIO()
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(file, "PNG")
    rgb, _ = image_file.decode(file.getvalue())
    np.testing.assert_array_equal(rgb[:, :, 1], np.arange(256).reshape(16, 16))


def test_transparent_parts_lie_over_white() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4, 3] = 255
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    rgb, _ = image_file.decode(file.getvalue())
    assert (rgb[:, :4] == 0).all()
    assert (rgb[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        ("RGB", "PNG", {}),
        ("RGB", "PNG", {"transparency": (20, 20, 220)}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("L", "PNG", {"transparency": 0}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("P", "GIF", {"transparency": 3}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGBA", "AVIF", {}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "TIFF", {}),
    ],
)
def test_pixels_converted_in_bands_are_those_of_the_whole_image_converted_at_once(
    mode: str, file_format: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (37, 29, 4), dtype=np.uint8)
    whole = Image.fromarray(rgba)
    if mode == "I;16":
        whole = Image.fromarray(rgba[:, :, :2].copy().view(np.uint16)[:, :, 0])
    file = io.BytesIO()
    whole.convert(mode).save(file, file_format, **options)
    with Image.open(file) as opened:
        if opened.mode == "I;16":
            expected = np.repeat((np.asarray(opened) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        elif opened.has_transparency_data:
            white = Image.new("RGBA", opened.size, "white")
            expected = np.asarray(Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB"))
        else:
            expected = np.asarray(opened.convert("RGB"))
    monkeypatch.setattr(image_file, "_BAND_PIXELS", 100)
    np.testing.assert_array_equal(image_file.decode(file.getvalue())[0], expected)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_images_in_a_file_the_first_counts(file_format: str) -> None:
    first, other = Image.fromarray(drawn()), Image.new("RGB", (60, 40), "black")
    file = io.BytesIO()
    first.save(file, file_format, save_all=True, append_images=[other, other])
    rgb, _ = image_file.decode(file.getvalue())
    assert np.abs(rgb.astype(int) - drawn()).mean() < 40


def test_exif_orientation_is_not_obeyed_and_broken_exif_not_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    turned, _ = image_file.decode(saved(drawn(), "RGB", "JPEG", exif=exif))
    broken, _ = image_file.decode(saved(drawn(), "RGB", "JPEG", exif=b"Exif\0\0" + b"\xff" * 50))
    assert turned.shape == broken.shape == (40, 60, 3)
    np.testing.assert_array_equal(turned, broken)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"GALAXY of bytes", "not recognised as an image: it begins with b'GALAXY o'"),
        (b"\r\n<HTML lang=en><body>404", "an HTML page"),
        (b"<!DOCTYPE html><svg></svg>", "an HTML page"),
        (b"<?xml version='1.0'?><!-- drawn --><svg width='3'/>", "an SVG drawing, which is not read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which is not read"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image, which is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0", "a JPEG XL image, which is not read"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(3000), "nothing but zeros"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file, which is not read"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\xff\xd8" + bytes(500), "JPEG"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason.replace("(", r"\(")):
        image_file.decode(data)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "CMYK"]))
def test_an_image_cut_off_anywhere_is_bad_or_has_lost_no_pixel(cut: int, kind: str) -> None:
    data = saved(drawn(), "CMYK" if kind == "CMYK" else "RGB", "JPEG" if kind == "CMYK" else kind)
    whole, _ = image_file.decode(data)
    cut %= len(data)
    try:
        rgb, _ = image_file.decode(data[:cut])
    except BadImage:
        return
    # The last bytes of some formats hold no pixels: a GIF's trailer, a PNG's checksums and closing chunk.
    assert cut > len(data) - 40
    np.testing.assert_array_equal(rgb, whole)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), st.integers(0), st.binary(min_size=1, max_size=8))
def test_damage_gives_an_image_or_a_bad_image_and_nothing_else(kind: str, at: int, damage: bytes) -> None:
    data = bytearray(saved(drawn(), "RGB", kind))
    at %= len(data)
    data[at : at + len(damage)] = damage
    with contextlib.suppress(BadImage):
        rgb, _ = image_file.decode(bytes(data))
        assert rgb.ndim == 3
        assert rgb.shape[2] == 3


def test_left_over_bytes_before_a_marker_are_kept_and_counted() -> None:
    sound = photo(1)
    scan, end = sound.index(b"\xff\xda"), sound.rindex(b"\xff\xd9")
    for odd in (sound[:scan] + b"junk" + sound[scan:], sound[:end] + bytes(20) + sound[end:]):
        with pytest.raises(BadImage, match="extraneous bytes"):
            jpeg.decode(odd)
        rgb, warned = image_file.decode(odd)
        assert warned
        assert np.abs(rgb.astype(int) - jpeg.decode(sound)).mean() < 1
        with pytest.raises(BadImage):  # the first warning must not hide that the file ends early
            image_file.decode(odd[: scan + 100])


def test_an_absurd_size_of_another_format_is_refused_from_the_header() -> None:
    file = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(file, "PNG")  # 15 kB that would be 363 MB
    with pytest.raises(BadImage, match="121000000 pixels"):
        image_file.decode(file.getvalue())
