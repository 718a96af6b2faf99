import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.images import pixels


def noise(seed: int, height: int, width: int) -> pixels.Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 99))
def test_any_size_becomes_a_contiguous_256_square(height: int, width: int, seed: int) -> None:
    square = pixels.centre_square(noise(seed, height, width))
    assert square.shape == (256, 256, 3)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous


def test_the_centre_is_kept_pixel_for_pixel_where_the_shorter_side_is_256() -> None:
    wide, tall = noise(0, 256, 300), noise(1, 340, 256)
    np.testing.assert_array_equal(pixels.centre_square(wide), wide[:, 22:278])
    np.testing.assert_array_equal(pixels.centre_square(tall), tall[42:298])


@pytest.mark.parametrize(("height", "width"), [(512, 1024), (1536, 768)])
def test_cutting_first_is_resizing_all_and_cutting_then(height: int, width: int) -> None:
    rgb, shorter = noise(2, height, width), min(height, width)
    whole = cv2.resize(rgb, (width * 256 // shorter, height * 256 // shorter), interpolation=cv2.INTER_AREA)
    top, left = (whole.shape[0] - 256) // 2, (whole.shape[1] - 256) // 2
    expected = whole[top : top + 256, left : left + 256]
    np.testing.assert_array_equal(pixels.centre_square(rgb), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(257, 900), st.integers(0, 900))
@example(683, 4)
@example(686, 4)
def test_when_shrinking_cutting_first_shifts_the_picture_by_half_a_stored_pixel_at_most(side: int, wider: int) -> None:
    width = side + wider
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)  # a column's place, in its colour
    rgb = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (side, width, 3)))
    whole = cv2.resize(rgb, (round(width * 256 / side), 256), interpolation=cv2.INTER_AREA)
    left = (whole.shape[1] - 256) // 2
    difference = pixels.centre_square(rgb)[0, :, 0].astype(float) - whole[0, left : left + 256, 0]
    levels_a_stored_pixel = 255 / (width - 1) * side / 256
    assert abs(difference.mean()) <= 0.5 * levels_a_stored_pixel + 0.1
    assert np.abs(difference).max() <= 0.75 * levels_a_stored_pixel + 1.01, "each is rounded"


def test_shrinking_averages_areas() -> None:
    rgb = noise(3, 512, 512)
    mean = rgb.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels.centre_square(rgb) - mean).max() <= 0.5


def test_enlarging_keeps_a_flat_colour_and_the_ends_of_a_ramp() -> None:
    flat = np.full((20, 30, 3), (10, 120, 250), np.uint8)
    assert (pixels.centre_square(flat) == (10, 120, 250)).all()
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    row = pixels.centre_square(ramp)[128, :, 0].astype(int)
    assert row[0] <= 2
    assert row[-1] >= 253
    assert (np.diff(row) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 10**6), st.sampled_from([(256, 256), (1, 1), (300, 7)]))
def test_channel_products_are_exact(low: int, high: int, seed: int, shape: tuple[int, int]) -> None:
    low, high = min(low, high), max(low, high)
    rgb = np.random.default_rng(seed).integers(low, high + 1, (*shape, 3), dtype=np.uint8)
    flat = rgb.reshape(-1, 3).astype(np.int64)
    np.testing.assert_array_equal(pixels.channel_products(rgb), flat.T @ flat)
