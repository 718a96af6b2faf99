"""The streams that a run reads, and the scale of their pixels."""

import contextlib
from dataclasses import replace
from itertools import islice

import pytest
import torch

from common.errors import LoaderFault
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader, draw
from trainer.feeding.data import TrainingData
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.pixel_transform import PixelTransform
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Phase, Recipe

CPU = torch.device("cpu")
RECIPE = replace(RECIPES["source"], batch_size=4, epochs=3, phase=(Phase(0, 0.01), Phase(2, 0.01, sigma=0.0)))


class OneInput:
    """The part of a net that the data looks at."""

    input_devices = (CPU,)
    input_dtype = torch.float32
    loss_device = CPU


def data_of(loader: MemoryLoader, recipe: Recipe = RECIPE) -> TrainingData:
    return TrainingData(loader, recipe, seed=5)  # type: ignore[arg-type]


def expected(data: TrainingData, spec: StreamSpec, epoch: int, fed: DeviceBatch, scale: float) -> torch.Tensor:
    pictures = [draw(spec, epoch, fed.batch.first + k, int(label)) for k, label in enumerate(fed.labels)]
    transform = PixelTransform(data.info.mean_hwc, RECIPE.input_shape, scale, CPU)
    return transform(torch.stack([torch.from_numpy(picture) for picture in pictures]))


def test_training_is_scaled_as_long_as_there_is_noise() -> None:
    """In the source program the factor is part of the noise: 1 / (1 + its coefficient)."""
    loader = MemoryLoader(train_records=8)
    data = data_of(loader)
    for epoch, sigma, scale in ((1, 0.1, 1 / 1.1), (2, 0.0, 1.0)):
        fed = next(data.training(OneInput(), epoch, 4))  # type: ignore[arg-type]
        spec = StreamSpec("train", 5, "train", 224, sigma)
        assert [spec for spec in loader.specs if spec.split == "train"][-1] == spec
        assert (fed.batch.epoch, fed.batch.first) == (epoch, 4)
        assert torch.equal(fed.pixels[CPU], expected(data, spec, epoch, fed, scale))


def test_a_stream_goes_on_over_epochs_until_the_noise_changes() -> None:
    loader = MemoryLoader(train_records=8)
    batches = data_of(loader).training(OneInput(), 0, 4)  # type: ignore[arg-type]
    places = [(fed.batch.epoch, fed.batch.first) for fed in islice(batches, 10)]
    assert places == [(0, 4), (1, 0), (1, 4), (2, 0), (2, 4)]
    assert [spec.sigma for spec in loader.specs if spec.split == "train"] == [0.1, 0.0]


def test_validation_reads_stored_pictures_at_the_test_scale() -> None:
    loader = MemoryLoader(train_records=8, val_records=6)
    data = data_of(loader, replace(RECIPE, test_scale=0.5))
    spec = StreamSpec("val", view="full")
    batches = list(data.validation(OneInput()))  # type: ignore[arg-type]
    assert spec in loader.specs
    assert [len(batch) for batch in batches] == [4, 2]
    for fed in batches:
        assert torch.equal(fed.pixels[CPU], expected(data, spec, 0, fed, 0.5))


@pytest.mark.parametrize("broken_off", [False, True])
def test_the_validation_stream_is_open_while_it_is_read(broken_off: bool) -> None:
    loader = MemoryLoader(train_records=8, val_records=6)
    data = data_of(loader)
    for _ in range(2):
        assert [stream.spec.split for stream in loader.open] == ["train"]
        batches = data.validation(OneInput())  # type: ignore[arg-type]
        next(batches)
        assert [stream.spec.split for stream in loader.open] == ["train", "val"]
        if broken_off:
            loader.on_ask = fail
        with contextlib.suppress(LoaderFault):
            list(batches)
        loader.on_ask = lambda *_: None
    assert [stream.spec.split for stream in loader.open] == ["train"]


def fail(*_: object) -> None:
    raise LoaderFault("broken off")
