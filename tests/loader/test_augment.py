"""Crop, flip and colour noise equal a plain float reference, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import BadImage
from common.images import jpeg
from common.spec import STORED_SIZE, StreamSpec
from loader.workers.augment import FullBatch, Pixels, SaturatingNoise, Scratch, TrainingBatch
from loader.workers.sampler import Draws

offsets = hnp.arrays(np.float64, 3, elements=st.floats(-600, 600))


def noise_jpeg(seed: int) -> bytes:
    rgb = np.random.default_rng(seed).integers(0, 256, (STORED_SIZE, STORED_SIZE, 3), dtype=np.uint8)
    return jpeg.encode(rgb, 90)


def draw(top: int, left: int, flip: bool, offset: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Draws:
    return Draws(np.array([top]), np.array([left]), np.array([flip]), offset[np.newaxis])


def put(batch: TrainingBatch | FullBatch, packed: bytes) -> None:
    batch.finish(0, jpeg.decode(packed, batch.room(0)))


def training_picture(spec: StreamSpec, packed: bytes, draws: Draws) -> Pixels:
    images: Pixels = np.zeros((1, *spec.image_shape), spec.dtype)
    put(TrainingBatch(spec, draws, images, Scratch()), packed)
    picture: Pixels = images[0]
    return picture


@given(
    source=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    offset=offsets.map(np.rint),
)
def test_the_sum_of_bytes_saturates_like_a_clipped_float_sum(
    source: "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]",
    offset: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> None:
    target = np.empty_like(source)
    SaturatingNoise(offset[np.newaxis], source.shape)(0, source, target)
    assert np.array_equal(target, np.clip(source + offset, 0, 255))


@given(
    seed=st.integers(0, 3),
    crop=st.sampled_from([1, 100, 224, 227, 256]),
    corner=st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.7, 1.0])),
    flip=st.booleans(),
    offset=offsets,
)
def test_a_training_picture_equals_the_float_reference(
    seed: int,
    crop: int,
    corner: tuple[float, float],
    flip: bool,
    offset: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> None:
    top, left = (round(share * (STORED_SIZE - crop)) for share in corner)
    packed = noise_jpeg(seed)
    reference = jpeg.decode(packed)[top : top + crop, left : left + crop]
    reference = reference[:, ::-1] if flip else reference
    draws = draw(top, left, flip, offset)

    as_bytes = training_picture(StreamSpec(crop=crop), packed, draws)
    assert np.array_equal(as_bytes, np.clip(reference + np.rint(offset), 0, 255))

    as_floats = training_picture(StreamSpec(crop=crop, pixels="float32"), packed, draws)
    assert np.array_equal(as_floats, reference.astype(np.float32) + offset.astype(np.float32))


def test_without_noise_a_crop_is_the_stored_pixels() -> None:
    packed = noise_jpeg(0)
    target = training_picture(StreamSpec(sigma=0), packed, draw(5, 9, False, np.full(3, 99.0)))
    assert np.array_equal(target, jpeg.decode(packed)[5:232, 9:236])


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_the_full_view_is_the_stored_picture(pixels: str) -> None:
    packed = noise_jpeg(1)
    target = np.empty((1, STORED_SIZE, STORED_SIZE, 3), pixels)
    put(FullBatch(target, Scratch()), packed)
    assert np.array_equal(target[0], jpeg.decode(packed))


def test_a_truncated_jpeg_is_refused_although_libjpeg_only_warns() -> None:
    with pytest.raises(BadImage, match="[Pp]remature end"):
        jpeg.decode(noise_jpeg(0)[:3000])


def test_a_picture_of_another_size_is_refused() -> None:
    small = jpeg.encode(np.zeros((64, 80, 3), np.uint8), 90)
    with pytest.raises(BadImage, match="80x64"):
        put(FullBatch(np.empty((1, STORED_SIZE, STORED_SIZE, 3), np.uint8), Scratch()), small)


def test_a_picture_without_its_tables_is_not_decoded_with_those_of_the_one_before() -> None:
    whole = noise_jpeg(2)
    tables = whole.index(b"\xff\xdb")
    length = int.from_bytes(whole[tables + 2 : tables + 4], "big")
    headless = whole[:tables] + whole[tables + 2 + length :]
    jpeg.decode(whole)
    with pytest.raises(BadImage):
        jpeg.decode(headless)
