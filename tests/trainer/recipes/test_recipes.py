"""Each row of the two recipes, `paper` and `source`, as behaviour. A row, and the tests that show it:

layers, their reads       test_the_full_network_has_60965224_parameters_in_16_tensors,
                          test_blocks_have_the_shapes_of_the_paper_s_figure,
                          test_the_halves_equal_the_reference_for_batches_of_changing_size
maps, max pooling         test_maps_are_55_27_and_13_pixels_wide_and_pooled_to_27_13_and_6
input: crops              test_a_crop_begins_at_each_offset_that_fits
input: zeros              test_the_source_s_224_pixels_get_three_rows_and_columns_of_zeros_and_the_paper_s_none
conv1 and conv2 block     test_what_follows_a_convolution_is_in_the_recipe_s_order
LRN                       test_lrn_is_torch_s_with_the_alpha_of_the_table_in_each_half,
                          test_a_lone_value_is_normalised_as_worked_out_by_hand
spatial norm              test_the_source_normalises_conv2_in_space_too,
                          test_a_lone_value_is_normalised_as_worked_out_by_hand
weights                   test_first_weights_have_the_recipe_s_spread_and_biases_its_constants,
                          test_the_paper_s_spread_is_001_everywhere
biases                    test_biases_begin_at_one_in_conv2_conv4_conv5_fc6_and_fc7
dropout                   test_fc6_and_fc7_lose_half_in_training_and_are_halved_in_test
pixels, their scale       test_pixels_are_those_stored_less_the_mean_over_11_in_the_source_s_noisy_epochs
mean image                test_a_training_crop_loses_the_centre_of_the_mean_and_is_scaled_and_padded
colour noise              test_colour_noise_has_a_hundredth_of_the_pixels_covariance,
                          test_colour_noise_ends_after_66_epochs_of_the_source_and_never_in_the_paper
update                    test_any_schedule_s_updates_are_the_rule_in_plain_floats,
                          test_the_recipes_own_schedules_are_followed_as_in_plain_floats,
                          test_torch_s_sgd_is_the_same_up_to_the_first_drop_and_another_after_it
g, the mean of a batch    test_the_gradient_is_the_mean_over_the_batch
bias rate                 test_the_source_s_rates_change_after_24_50_66_71_and_78_whole_epochs,
                          test_the_paper_s_biases_learn_at_their_weights_rate
rates                     test_the_source_s_rates_change_after_24_50_66_71_and_78_whole_epochs,
                          test_the_source_stops_after_epoch_90,
                          test_the_paper_s_rates_fall_tenfold_three_times_when_the_error_stops_falling
batch                     test_a_batch_is_128_pictures_each_with_a_crop_and_a_flip_of_its_own
order                     test_an_epoch_holds_every_record_exactly_once,
                          test_seeds_and_epochs_give_different_orders_and_draws
test views                test_views_are_the_paper_s_ten_crops, test_offsets_are_those_that_are_printed,
                          test_errors_are_those_of_ten_crops_cut_by_hand_and_probabilities_averaged
"""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.images.jpeg import decode
from common.spec import STORED_SIZE, StreamSpec
from loader.dataset import Dataset
from loader.workers import sampler
from tests.support.memory_loader import MemoryLoader, draw
from tests.support.paths import ROOT
from trainer.feeding.data import TrainingData
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.pixel_transform import PixelTransform
from trainer.network.initial import initial_tensors
from trainer.network.model import after_convolution, groups_of, reference_shapes
from trainer.network.one_device import OneDevice
from trainer.ops.convolution import convolve
from trainer.recipes.layers import Op
from trainer.recipes.named import PAPER, SOURCE
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Schedule

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("recipe", [PAPER, SOURCE], ids=["paper", "source"])
MEAN = 120.0  # everywhere in the mean image of a MemoryLoader


def narrow(recipe: Recipe) -> Recipe:
    return replace(recipe, width=1 / 16, classes=10)


def small(recipe: Recipe) -> Recipe:
    """Narrow, and of images so small that the last maps are one pixel: a step takes milliseconds."""
    return replace(narrow(recipe), input_size=67, crop=67)


def unfolded(x: Tensor) -> Tensor:
    """n x 48 x 57 x 57 as the first layer reads it, n x 228 x 228 x 3."""
    n = len(x)
    return x.permute(0, 2, 3, 1).reshape(n, 57, 57, 4, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(n, 228, 228, 3)


@BOTH
def test_maps_are_55_27_and_13_pixels_wide_and_pooled_to_27_13_and_6(recipe: Recipe) -> None:
    recipe = narrow(recipe)
    weights = initial_tensors(recipe, seed=0)
    x, sides = torch.randn(1, 3, 227, 227), []
    for conv in recipe.conv:
        maps = convolve(conv, x, weights[f"{conv.name}.weight"], groups_of(conv, recipe))
        x = after_convolution(replace(conv, name="not_the_last"), maps.clone(), torch.zeros(maps.shape[1]), recipe, 2)
        sides.append((tuple(maps.shape[2:]), tuple(x.shape[2:])))
    wide, narrower, narrowest = (55, 55), (27, 27), (13, 13)
    kept = (narrowest, narrowest)
    assert sides == [(wide, narrower), (narrower, narrowest), kept, kept, (narrowest, (6, 6))]


@pytest.mark.parametrize(("recipe", "last"), [(PAPER, 29), (SOURCE, 32)])
def test_a_crop_begins_at_each_offset_that_fits(recipe: Recipe, last: int) -> None:
    draws = sampler.draws_at(training_data(recipe).spec, np.eye(3), epoch=0, first=0, count=5000)
    assert set(draws.top.tolist()) == set(draws.left.tolist()) == set(range(last + 1))


@pytest.mark.parametrize(("recipe", "filled"), [(PAPER, 227), (SOURCE, 224)])
def test_the_source_s_224_pixels_get_three_rows_and_columns_of_zeros_and_the_paper_s_none(
    recipe: Recipe, filled: int
) -> None:
    mean_hwc = np.full((STORED_SIZE, STORED_SIZE, 3), 100.5, np.float32)
    crops = torch.zeros(2, recipe.crop, recipe.crop, 3, dtype=torch.uint8)  # black, so that less the mean none is zero
    x = unfolded(PixelTransform(mean_hwc, recipe.input_shape, 1.0, CPU)(crops))[:, :227, :227]
    assert (x[:, :filled, :filled] == -100.5).all()
    assert (x[:, filled:] == 0).all()
    assert (x[:, :, filled:] == 0).all()


def followed_by(recipe: Recipe, ops: tuple[Op, ...], x: Tensor) -> Tensor:
    conv = replace(recipe.conv[1], then=ops)
    return after_convolution(conv, x.clone(), torch.zeros(x.shape[1], dtype=x.dtype), recipe, groups=2)


@pytest.mark.parametrize(("recipe", "alpha"), [(PAPER, 5e-4), (SOURCE, 1e-4)])
def test_lrn_is_torch_s_with_the_alpha_of_the_table_in_each_half(recipe: Recipe, alpha: float) -> None:
    x = 100 * torch.randn(2, 16, 5, 5, dtype=torch.float64)
    halves = [F.local_response_norm(half, 5, alpha, 0.75, 2.0) for half in x.chunk(2, dim=1)]
    torch.testing.assert_close(followed_by(recipe, ("lrn",), x), torch.cat(halves, dim=1))


@pytest.mark.parametrize(("recipe", "sum_of_lrn"), [(PAPER, 2 + 1e-4 * 100**2), (SOURCE, 2 + 1e-4 / 5 * 100**2)])
def test_a_lone_value_is_normalised_as_worked_out_by_hand(recipe: Recipe, sum_of_lrn: float) -> None:
    x = torch.zeros(1, 10, 7, 7, dtype=torch.float64)
    x[0, 3, 2, 2] = 100
    lrn = followed_by(recipe, ("lrn",), x)[0, 3, 2, 2].item()
    spatial = followed_by(SOURCE, ("spatial",), x)[0, 3, 2, 2].item()
    assert lrn == pytest.approx(100 / sum_of_lrn**0.75, rel=1e-12)
    assert spatial == pytest.approx(100 / (1 + 1e-3 / 25 * 100**2) ** 0.75, rel=1e-12)


@BOTH
def test_biases_begin_at_one_in_conv2_conv4_conv5_fc6_and_fc7(recipe: Recipe) -> None:
    tensors = OneDevice(narrow(recipe), seed=0, device=CPU).gather()
    ones = {name for name, tensor in tensors.items() if name.endswith(".bias") and (tensor == 1).all()}
    zeros = {name for name, tensor in tensors.items() if name.endswith(".bias") and (tensor == 0).all()}
    assert ones == {f"{layer}.bias" for layer in ("conv2", "conv4", "conv5", "fc6", "fc7")}
    assert zeros == {f"{layer}.bias" for layer in ("conv1", "conv3", "fc8")}


@BOTH
def test_fc6_and_fc7_lose_half_in_training_and_are_halved_in_test(recipe: Recipe) -> None:
    """All of fc6's units give 1, each of fc7's their mean, and the first class has the mean of fc7's: a quarter."""
    net = OneDevice(replace(small(recipe), width=1 / 8), seed=0, device=CPU)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in net.gather().items()}
    tensors["fc6.bias"].fill_(1)
    tensors["fc7.weight"].fill_(1 / 512)
    tensors["fc8.weight"][0] = 1 / 512
    net.scatter(tensors)
    x, label = (torch.randn(1, 3, 67, 67),), torch.zeros(1, dtype=torch.int64)
    in_training = [first_logit(math.exp(-net.train_step(x, label, step=step)[0].item())) for step in range(20)]
    assert first_logit(net.predict(x)[0, 0].item()) == pytest.approx(0.25, abs=1e-6)
    assert sum(in_training) / 20 == pytest.approx(0.25, abs=0.02)
    assert len(set(in_training)) > 10


def first_logit(probability: float) -> float:
    """The first of ten logits, the others 0, that gives this probability."""
    return math.log(9 * probability / (1 - probability))


class OneInput:
    """The part of a net that the data looks at."""

    input_devices = (CPU,)
    input_dtype = torch.float32
    loss_device = CPU


def training_data(recipe: Recipe, epoch: int = 0, records: int = 2) -> TrainingData:
    return TrainingData(MemoryLoader(train_records=records, val_records=2), recipe, seed=3, epoch=epoch)  # type: ignore[arg-type]


def fed(data: TrainingData, epoch: int) -> DeviceBatch:
    return next(data.training(OneInput(), epoch, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "epoch", "factor"), [(PAPER, 0, 1), (PAPER, 80, 1), (SOURCE, 65, 1 / 1.1), (SOURCE, 66, 1)]
)
def test_pixels_are_those_stored_less_the_mean_over_11_in_the_source_s_noisy_epochs(
    recipe: Recipe, epoch: int, factor: float
) -> None:
    data = training_data(recipe, epoch)
    x = unfolded(fed(data, epoch).pixels[CPU])[:, : recipe.crop, : recipe.crop]
    assert_less_the_mean(x, [draw(data.spec, epoch, position, label=position) for position in (0, 1)], factor)
    (batch,) = data.validation(OneInput())  # type: ignore[arg-type]
    stored = [draw(StreamSpec("val", view="full"), 0, position, label=position) for position in (0, 1)]
    edge = (STORED_SIZE - recipe.crop) // 2
    centres = [picture[edge : edge + recipe.crop, edge : edge + recipe.crop] for picture in stored]
    assert_less_the_mean(unfolded(batch.pixels[CPU])[:, : recipe.crop, : recipe.crop], centres, 1)


def assert_less_the_mean(x: Tensor, pictures: list[npt.NDArray[np.uint8]], factor: float) -> None:
    np.testing.assert_allclose(x.numpy(), (np.stack(pictures).astype(np.float64) - MEAN) * factor, atol=1e-4)


@BOTH
def test_colour_noise_has_a_hundredth_of_the_pixels_covariance(recipe: Recipe, packed: Path) -> None:
    """Components are scaled by their standard deviations: by their variances, they would swamp the image."""
    with Dataset(packed / "train.lmdb") as data:
        pixels = np.concatenate([decode(data.read(record)[1]).reshape(-1, 3) for record in range(data.records)])
        offsets = sampler.draws_at(training_data(recipe).spec, data.colour, 0, 0, 100_000).offset
    covariance = np.cov(pixels.T.astype(np.float64)) / 100
    assert np.abs(np.cov(offsets.T) - covariance).max() < 0.03 * np.abs(covariance).max()


def test_colour_noise_ends_after_66_epochs_of_the_source_and_never_in_the_paper() -> None:
    for recipe, epoch, sigma in ((SOURCE, 0, 0.1), (SOURCE, 65, 0.1), (SOURCE, 66, 0.0), (SOURCE, 90, 0.0)):
        assert training_data(recipe, epoch).spec.sigma == sigma
    assert {training_data(PAPER, epoch).spec.sigma for epoch in range(PAPER.epochs)} == {0.1}


@BOTH
def test_the_gradient_is_the_mean_over_the_batch(recipe: Recipe) -> None:
    net = OneDevice(replace(small(recipe), dropout=0.0), seed=0, device=CPU, dtype=torch.float64)
    x, labels = 60 * torch.randn(3, 3, 67, 67, dtype=torch.float64), torch.tensor([1, 4, 7])

    def gradients(x: Tensor, labels: Tensor) -> list[Tensor]:
        net.train_step((x,), labels, step=0)
        return [each.gradient for each in net.parameters if each.gradient is not None]

    of_each = [gradients(x[k : k + 1], labels[k : k + 1]) for k in range(3)]
    for whole, *parts in zip(gradients(x, labels), *of_each, strict=True):
        torch.testing.assert_close(whole, sum(parts) / 3, rtol=1e-9, atol=1e-12)


def test_the_paper_s_biases_learn_at_their_weights_rate() -> None:
    schedule = Schedule(PAPER)
    for error in (0.9, *[0.95] * 7):
        rates = schedule.rates(0)
        assert {rates[name] for name in rates if "bias" in name} == {rates[name] for name in rates if "weight" in name}
        schedule.observe(error)
    assert set(rates.values()) == {0.001}


def test_the_source_stops_after_epoch_90() -> None:
    batches = training_data(SOURCE, 89).training(OneInput(), 89, 0)  # type: ignore[arg-type]
    assert [fed.batch.epoch for fed in batches] == [89, 90]


@BOTH
def test_a_batch_is_128_pictures_each_with_a_crop_and_a_flip_of_its_own(recipe: Recipe) -> None:
    assert len(fed(training_data(recipe, records=130), 0)) == 128
    draws = sampler.draws_at(training_data(recipe).spec, np.eye(3), epoch=0, first=0, count=128)
    places = np.stack((draws.top, draws.left, draws.flip), axis=1)
    for shared in range(0, 128, 32):  # the 2012 program cut and flipped so many alike
        assert len(np.unique(places[shared : shared + 32], axis=0)) > 28


def test_each_row_s_tests_are_there() -> None:
    named = re.findall(r"test_\w+", __doc__ or "")
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert len(named) > 25
    assert set(named) <= there


@BOTH
def test_a_narrow_net_begins_with_sums_that_spread_as_at_width_1(recipe: Recipe) -> None:
    narrow_net, layers = replace(recipe, width=0.125, classes=10), {layer.name: layer for layer in recipe.layers}
    full = reference_shapes(replace(recipe, classes=10))
    for name, weights in initial_tensors(narrow_net, seed=0).items():
        layer, _, kind = name.partition(".")
        if kind == "weight":
            spread = float(weights.std()) * math.sqrt(weights[0].numel())
            expected = float(layers[layer].weight_std) * math.sqrt(math.prod(full[name][1:]))
            assert spread == pytest.approx(expected, rel=0.05)
