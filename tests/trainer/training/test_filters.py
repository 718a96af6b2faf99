"""Images of filters, and sheets of images."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.training.board import filters_image, tiled

RANDOM = np.random.default_rng(0)


def test_the_filters_of_half_0_stand_above_those_of_half_1() -> None:
    weights = np.zeros((96, 3, 11, 11), np.float32)
    weights[5, 0, 2, 3] = 7.0  # half 0, first row
    weights[48 + 16 + 1, 2, 10, 0] = -0.5  # half 1, second row
    picture = filters_image(weights)
    assert picture.shape == (2 * (3 * 12 - 1) + 4, 16 * 12 - 1, 3)
    red, blue = np.argwhere(picture[..., 0] == 255), np.argwhere(picture[..., 2] == 1)
    assert red.tolist() == [[2, 5 * 12 + 3]]
    assert blue.tolist() == [[3 * 12 - 1 + 4 + 12 + 10, 12]]


def test_each_filter_is_stretched_to_its_own_range_around_grey() -> None:
    ranges = np.array([1, 1e-3, 50, 0], np.float32)[:, None, None, None]
    weights = RANDOM.normal(size=(4, 3, 2, 2)).astype(np.float32) * ranges
    picture = filters_image(weights, groups=1)
    for index in range(4):
        tile = picture[:, 3 * index : 3 * index + 2].transpose(2, 0, 1)
        farthest = np.abs(weights[index]).max() or 1.0
        assert np.array_equal(tile, np.rint(128 + 127 * (weights[index] / farthest)))
        assert np.abs(tile - 128.0).max() == (127 if weights[index].any() else 0)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.integers(1, 7))
def test_a_sheet_holds_every_picture_in_its_place(n: int, height: int, width: int, columns: int) -> None:
    pictures = RANDOM.integers(1, 256, (n, height, width, 3), np.uint8)
    sheet = tiled(pictures, columns)
    for index in range(n):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        assert np.array_equal(sheet[top : top + height, left : left + width], pictures[index])
    assert np.count_nonzero(sheet) == pictures.size
