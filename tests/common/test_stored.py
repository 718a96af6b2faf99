import io

import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage
from common.images import jpeg
from common.images.stored import FORM, stored_jpeg, stored_pixels


def png(height: int, width: int) -> bytes:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(rgb).save(target, "PNG")
    return target.getvalue()


def test_stored_pixels_are_those_of_the_stored_jpeg() -> None:
    data = png(300, 400)
    stored, warned = stored_jpeg(data)
    assert not warned
    with Image.open(io.BytesIO(stored)) as image:
        assert f"{image.width}x{image.height} {image.format}" == FORM.partition(" quality")[0]
    pixels = stored_pixels(data)
    np.testing.assert_array_equal(pixels, jpeg.decode(stored))
    with Image.open(io.BytesIO(data)) as image:
        exact = np.asarray(image.resize((256, 256), box=(50, 0, 350, 300)))
    assert (pixels != exact).any(), "a JPEG's loss is part of what is trained on"


def test_a_file_that_is_no_image_is_refused_in_words() -> None:
    for make in (stored_jpeg, stored_pixels):
        with pytest.raises(BadImage, match="not recognised as an image"):
            make(b"no image at all")
