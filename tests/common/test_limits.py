"""Images that would cost too much are refused before a decoder sees them."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile

from common.errors import BadImage
from common.images import image_file, jpeg, limits
from common.images.codec import codec
from common.spec import STORED_SIZE
from tests.support.bombs import BOMBS, saved_as_jpeg, with_size


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("must not be reached")

    monkeypatch.setattr(type(codec()), "decode", decoded)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("decode", [jpeg.decode, image_file.decode])
def test_a_bomb_never_reaches_a_decoder(name: str, decode: Callable[[bytes], object]) -> None:
    with pytest.raises(BadImage, match=r"are more than|cannot be in"):
        decode(BOMBS[name]())


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_as_a_record_never_reaches_the_decoder(name: str) -> None:
    with pytest.raises(BadImage):
        jpeg.decode(BOMBS[name](), np.empty((STORED_SIZE, STORED_SIZE, 3), np.uint8))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_an_even_picture_is_not_taken_for_a_bomb(mode: str, progressive: bool) -> None:
    """The most pixels that an encoder puts into a byte."""
    file = io.BytesIO()
    Image.new(mode, (3000, 2000)).save(file, "JPEG", quality=1, progressive=progressive, optimize=True)
    assert image_file.decode(file.getvalue())[0].shape == (2000, 3000, 3)


def test_a_stored_picture_that_goes_on_with_more_scans_is_refused_by_libjpeg() -> None:
    """Those laid out as stored are not searched for scans: libjpeg itself takes only one after all components."""
    stored = jpeg.encode(np.full((STORED_SIZE, STORED_SIZE, 3), 90, np.uint8), 90)
    scan = stored[stored.index(b"\xff\xda") : -2]
    assert jpeg._is_as_stored(stored)
    with pytest.raises(BadImage):
        jpeg.decode(stored[:-2] + scan * 200 + b"\xff\xd9")


def test_a_huge_picture_within_a_small_one_is_refused() -> None:
    inner = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(inner, "PNG")
    entry = b"\x10\x10\0\0\1\0\x20\0" + len(inner.getvalue()).to_bytes(4, "little") + (22).to_bytes(4, "little")
    with pytest.raises(BadImage, match="121000000 pixels"):
        image_file.decode(b"\0\0\1\0\1\0" + entry + inner.getvalue())


def test_the_largest_photos_are_allowed() -> None:
    for progressive, scans in ((False, 1), (True, 14)):
        photo = saved_as_jpeg(48, 60, progressive=progressive) + b"\xff\xda" * scans + bytes(20_000_000)
        limits.check_jpeg(with_size(photo, 9_000, 7_000), 9_000, 7_000)
