"""From a batch in host memory to what the network reads."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.client.batch import Batch
from common.client.waits import WaitClock
from common.spec import STORED_SIZE
from trainer.device.streams import Streams
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import Pinned
from trainer.feeding.pixel_transform import PixelTransform, pixel_transforms
from trainer.ops.convolution import depth_to_space, space_to_depth
from trainer.recipes.layers import InputShape
from trainer.recipes.named import RECIPES

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
MEAN_HWC = RANDOM.uniform(0, 255, (STORED_SIZE, STORED_SIZE, 3)).astype(np.float32)


class TwoInputs:
    """The part of a net that a feed looks at."""

    input_devices = (CPU, CPU)
    input_dtype = torch.float32
    loss_device = CPU


def pictures(count: int, size: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_training_crop_loses_the_centre_of_the_mean_and_is_scaled_and_padded(name: str) -> None:
    recipe = RECIPES[name]
    crop, offset = recipe.crop, (STORED_SIZE - recipe.crop) // 2
    images = pictures(2, crop)
    x_nchw = PixelTransform(MEAN_HWC, InputShape(crop), recipe.train_scale, CPU)(torch.from_numpy(images))
    mean = MEAN_HWC[offset : offset + crop, offset : offset + crop]
    expected = (images.astype(np.float64) - mean) * recipe.train_scale
    assert x_nchw.shape == (2, 48, 57, 57)
    assert x_nchw.is_contiguous(memory_format=torch.channels_last)
    x_nchw = F.pixel_shuffle(x_nchw.view(2, 16, 3, 57, 57).transpose(1, 2).reshape(2, 48, 57, 57), 4)  # unfolded
    np.testing.assert_allclose(x_nchw[:, :, :crop, :crop].permute(0, 2, 3, 1).numpy(), expected, rtol=1e-6, atol=1e-5)
    assert x_nchw[:, :, crop:].count_nonzero() == 0
    assert x_nchw[:, :, :, crop:].count_nonzero() == 0


@pytest.mark.parametrize("shrink", [1, 8])
def test_pixels_in_float32_lose_the_same_mean_unrounded_and_unclipped(shrink: int) -> None:
    shape = RECIPES["cifar10"].input_shape if shrink == 8 else InputShape(224)
    whole = pictures(3, shape.crop)
    transform = PixelTransform(MEAN_HWC, shape, 1.0, CPU)
    assert torch.equal(transform(torch.from_numpy(whole.astype(np.float32))), transform(torch.from_numpy(whole)))
    shifted = torch.from_numpy(whole).float() + 300.25
    seen, plain = transform.images(transform(shifted)), transform(shifted) - transform(torch.from_numpy(whole))
    assert seen.max() == 255
    assert plain[plain != 0].min() == pytest.approx(300.25, abs=1e-3)


@pytest.mark.parametrize(("crop", "offset"), [(224, 16), (227, 14)])
def test_a_stored_picture_is_cut_to_its_centre(crop: int, offset: int) -> None:
    images = torch.from_numpy(pictures(3, STORED_SIZE))
    transform = PixelTransform(MEAN_HWC, InputShape(crop), 1.0, CPU)
    cut = images[:, offset : offset + crop, offset : offset + crop].contiguous()
    assert torch.equal(transform(images), transform(cut))


@pytest.mark.parametrize("as_float", [False, True])
def test_shrunk_pictures_are_the_means_of_squares_less_the_mean_image_s(as_float: bool) -> None:
    images = torch.from_numpy(pictures(2, STORED_SIZE))
    shape = InputShape(224, side=28, fold=1, shrink=8)
    x_nchw = PixelTransform(MEAN_HWC, shape, 0.5, CPU)(images.float() if as_float else images)
    cut = images[:, 16:240, 16:240].double() - torch.from_numpy(MEAN_HWC[16:240, 16:240]).double()
    expected = 0.5 * cut.view(2, 28, 8, 28, 8, 3).mean(dim=(2, 4)).permute(0, 3, 1, 2)
    assert x_nchw.dtype == torch.float32
    torch.testing.assert_close(x_nchw.double(), expected, rtol=1e-5, atol=1e-3)


def test_exact_pixels_are_taken_as_well_as_bytes() -> None:
    images = torch.from_numpy(pictures(2, 227))
    transform = PixelTransform(MEAN_HWC, InputShape(227), 0.5, CPU)
    assert torch.equal(transform(images.float()), transform(images))


def feed(source: Iterable[Batch]) -> Iterator[DeviceBatch]:
    transforms = pixel_transforms(TwoInputs(), MEAN_HWC, InputShape(224), scale=1.0)  # type: ignore[arg-type]
    return Feed(TwoInputs(), streams=Streams(), pinned=Pinned()).batches(source, transforms)  # type: ignore[arg-type]


def batch_of(images: np.ndarray, first: int = 0) -> Batch:
    count = len(images)
    return Batch(0, first, images, np.arange(count), np.arange(count))


def test_a_fed_batch_outlives_the_memory_it_came_in() -> None:
    slot = pictures(4, 224)
    kept = [pictures(4, 224) for _ in range(3)]

    def one_slot() -> Iterator[Batch]:
        for k, images in enumerate(kept):
            slot[:] = images
            labels = np.full(4, k)
            yield Batch(0, 4 * k, slot, labels, labels)
            slot[:] = 0
            labels[:] = -1

    arrived = list(feed(one_slot()))
    transform = PixelTransform(MEAN_HWC, InputShape(224), 1.0, CPU)
    for k, fed in enumerate(arrived):
        assert torch.equal(fed.pixels[CPU], transform(torch.from_numpy(kept[k])))
        assert fed.labels.tolist() == [k] * 4
        assert (fed.batch.epoch, fed.batch.first, len(fed)) == (0, 4 * k, 4)


def test_halves_on_one_device_share_the_pixels() -> None:
    (fed,) = feed(iter([batch_of(pictures(2, 224))]))
    first, second = fed.inputs(TwoInputs())  # type: ignore[arg-type]
    assert first is second


def test_without_a_transform_the_images_arrive_as_they_are_in_memory_of_their_own() -> None:
    images = pictures(2, STORED_SIZE)
    streams, pinned = Streams(), Pinned()
    (fed,) = Feed(TwoInputs(), streams=streams, pinned=pinned).batches([batch_of(images)])  # type: ignore[arg-type]
    assert np.array_equal(fed.pixels[CPU].numpy(), images)
    assert fed.pixels[CPU].data_ptr() != images.ctypes.data


def test_read_only_memory_is_fed_without_a_warning() -> None:
    images = pictures(2, 224)
    images.flags.writeable = False
    (fed,) = feed(iter([batch_of(images)]))
    assert len(fed) == 2


def test_the_clock_counts_the_whole_of_every_wait_and_nothing_else() -> None:
    now_s = 100.0

    def slow_sender() -> Iterator[Batch]:
        nonlocal now_s
        for k in range(3):
            now_s += 5.0  # the batch takes so long to come
            yield batch_of(pictures(1, 224), first=k)

    clock = WaitClock(lambda: now_s)
    for _ in feed(clock.timed(slow_sender())):
        now_s += 70.0  # the training step
    assert clock.waited_s == 15.0


def test_a_wait_that_ends_in_an_error_counts_too() -> None:
    now_s = 0.0

    def dying_sender() -> Iterator[Batch]:
        nonlocal now_s
        yield batch_of(pictures(1, 224))
        now_s += 60.0
        raise TimeoutError

    clock = WaitClock(lambda: now_s)
    with pytest.raises(TimeoutError):
        list(feed(clock.timed(dying_sender())))
    assert clock.waited_s == 60.0


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_network_sees_can_be_looked_at(name: str, dtype: torch.dtype) -> None:
    recipe = RECIPES[name]
    images = pictures(3, recipe.crop)
    transform = PixelTransform(MEAN_HWC, recipe.input_shape, recipe.train_scale, CPU, dtype)
    seen = transform.images(transform(torch.from_numpy(images)))
    shrink = recipe.input_shape.shrink
    side = recipe.crop // shrink
    means = images[:, : side * shrink, : side * shrink].reshape(3, side, shrink, side, shrink, 3).mean((2, 4))
    assert seen.dtype == np.uint8
    np.testing.assert_allclose(seen, means, atol=0.51 if dtype == torch.float32 else 1.5)


def test_depth_to_space_undoes_space_to_depth() -> None:
    x_nchw = torch.arange(2 * 3 * 12 * 8).reshape(2, 3, 12, 8)
    assert torch.equal(depth_to_space(space_to_depth(x_nchw, 4), 4), x_nchw)
