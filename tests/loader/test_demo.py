"""The drawn dataset: deterministic, and a task that colour does not solve."""

import io
import pickle  # what spawn does with a source

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loader.packing.demo import SHAPES, DemoSource


def pixels(jpeg: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@settings(max_examples=10, deadline=None)
@given(item=st.integers(0, 99), seed=st.integers(0, 2**64 - 1))
def test_a_picture_depends_on_split_item_and_seed_alone(item: int, seed: int) -> None:
    source = DemoSource("train", 100, seed)
    source.read(99 - item)  # what was drawn before does not matter
    assert source.read(item) == DemoSource("train", 200, seed).read(item)
    others = [DemoSource("val", 100, seed), DemoSource("train", 100, seed ^ 1)]
    assert all(source.read(item) != other.read(item) for other in others)


def test_splits_seeds_and_items_share_no_random_numbers() -> None:
    pictures = [
        DemoSource(split, 10, seed).read(item) for split in ("train", "val") for seed in (0, 1) for item in range(10)
    ]
    assert len(set(pictures)) == len(pictures)


def test_a_source_goes_to_another_process_as_it_is() -> None:
    source = DemoSource("val", 30, 5)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(17) == source.read(17)
    assert copy.name(17) == source.name(17) == "demo/val/chequers/000017.jpg"


def test_classes_are_balanced_and_named_after_their_shapes() -> None:
    source = DemoSource("train", 50)
    assert source.classes == tuple(SHAPES)
    assert np.bincount(source.labels).tolist() == [5] * 10
    assert len(source) == 50


def test_pictures_are_rgb_jpegs_of_varying_size_and_aspect() -> None:
    shapes = {pixels(DemoSource("train", 10).read(item)).shape for item in range(10)}
    assert len(shapes) == 10
    assert all(256 <= height <= 320 and 256 <= width <= 320 and depth == 3 for height, width, depth in shapes)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_a_fair_part_of_the_unit_circle_and_nothing_outside(name: str) -> None:
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 300), np.linspace(-1.5, 1.5, 300))
    circle = np.hypot(u, v) < 1.21  # the corners of the chequers reach furthest
    for vary in (min, max, lambda low, high: (low + high) / 2):
        inside = SHAPES[name](u, v, vary) < 0
        assert not inside[~circle].any()
        assert 0.1 < inside[circle].mean() < 0.75


def test_colour_hardly_tells_the_classes_apart() -> None:
    """Nearest class mean in mean colour and spread, of images it was not fitted to: chance is 10 %."""

    def features(source: DemoSource) -> npt.NDArray[np.float64]:
        small = [pixels(source.read(item))[::4, ::4].reshape(-1, 3) for item in range(len(source))]
        return np.array([np.concatenate([picture.mean(0), picture.std(0)]) for picture in small])

    train, val = DemoSource("train", 150), DemoSource("val", 100)
    x, y = features(train), features(val)
    means = np.array([x[train.labels == label].mean(0) for label in range(10)])
    nearest = np.abs((y[:, None] - means) / x.std(0)).sum(2).argmin(1)
    assert (nearest == val.labels).mean() < 0.35
