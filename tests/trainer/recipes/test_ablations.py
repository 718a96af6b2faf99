"""The paper's comparisons: each is a network of its own, trains, and in two halves is the same as undivided."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.errors import UsageError
from trainer.network.exchange import Crossing
from trainer.network.model import reference_shapes
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.recipes.ablations import ABLATIONS, ablated
from trainer.recipes.layers import Conv
from trainer.recipes.named import RECIPES, SOURCE
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
SMALL = replace(RECIPES["cifar10"], width=1 / 16, classes=4, dropout=0.5)


def small(name: str) -> Recipe:
    return ablated(SMALL, [name])


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % SMALL.classes
    means = torch.randn(SMALL.classes, 3, 1, 1, dtype=dtype, generator=draws)
    return means[labels] + torch.randn(12, 3, SMALL.input_size, SMALL.input_size, dtype=dtype, generator=draws), labels


def losses(net: Net, recipe: Recipe, steps: int, dtype: torch.dtype) -> list[float]:
    sgd = Sgd(net.parameters, momentum=recipe.momentum, weight_decay=0.0005, decay_biases=False)
    x, labels = batch(dtype)
    found = []
    for step in range(steps):
        found.append(net.train_step((x,) * len(net.input_devices), labels, step=step)[0].item())
        sgd.step(Schedule(recipe).rates(0))
    return found


@pytest.mark.parametrize("name", ["one-column", "conv6"])
def test_a_comparison_starts_to_learn(name: str) -> None:
    recipe = small(name)
    one = OneDevice(recipe, seed=0, device=CPU)
    net: Net = one if recipe.columns == 1 else TwoHalves(recipe, seed=0, devices=(CPU, CPU))
    found = losses(net, recipe, 25, torch.float32)
    assert sum(found[-5:]) < 0.8 * sum(found[:5]), found


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name not in ("one-column", "half-exchange")])
def test_each_comparison_in_two_halves_is_what_it_is_undivided(name: str) -> None:
    recipe = small(name)
    reference = OneDevice(recipe, seed=0, device=CPU, dtype=torch.float64)
    halves = TwoHalves(recipe, seed=0, devices=(CPU, CPU), dtype=torch.float64)
    assert losses(halves, recipe, 2, torch.float64) == pytest.approx(
        losses(reference, recipe, 2, torch.float64), rel=1e-11
    )
    expected, found = reference.gather(), halves.gather()
    assert list(expected) == list(found)
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_crosses_in_half_precision_changes_gradients_a_little(dtype: torch.dtype) -> None:
    x, labels = batch(dtype)
    gradients = []
    for recipe in (SMALL, small("half-exchange")):
        net = TwoHalves(recipe, seed=0, devices=(CPU, CPU), dtype=dtype)
        net.train_step((x, x), labels, step=0)
        gradients.append(net.gather({each: each.gradient for each in net.parameters if each.gradient is not None}))
    exact, narrow = gradients
    for name, gradient in exact.items():
        error = ((narrow[name] - gradient).norm() / gradient.norm()).item()
        assert error < 0.03, name
    assert not all(torch.equal(narrow[name], exact[name]) for name in exact) or dtype == torch.bfloat16


def test_a_small_gradient_of_a_mean_survives_half_precision() -> None:
    crossing = Crossing.of("float16", torch.float32)
    gradient = torch.full((128, 3), 2e-9)
    sent = crossing.send_gradient(gradient, 128)
    assert sent.dtype == torch.float16
    torch.testing.assert_close(crossing.receive_gradient(sent, 128), gradient, rtol=0.2, atol=0)
    assert (gradient.half() == 0).all()


def test_activations_cross_in_half_precision_and_come_back_as_they_are_computed_with() -> None:
    activation = torch.tensor([1.0, 1.0 + 2**-12])
    narrow = Crossing.of("float16", torch.float32)
    assert narrow.send(activation).dtype == torch.float16
    received = narrow.receive(narrow.send(activation))
    assert (received.dtype, received.tolist()) == (torch.float32, [1.0, 1.0])
    same = Crossing.of("same", torch.bfloat16)
    assert (
        same.send(activation.bfloat16()).dtype == same.send_gradient(activation.bfloat16(), 2).dtype == torch.bfloat16
    )


def layers(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    return {name.removesuffix(".weight"): shape for name, shape in reference_shapes(recipe).items() if "weight" in name}


def test_each_comparison_of_the_full_net_has_the_shapes_it_says() -> None:
    full = layers(SOURCE)
    assert layers(ablated(SOURCE, ["separate-halves"])) == full | {"conv3": (384, 128, 3, 3)}
    assert layers(ablated(SOURCE, ["no-conv4"])) == {name: shape for name, shape in full.items() if name != "conv4"}
    sixth = layers(ablated(SOURCE, ["conv6"]))
    assert list(sixth) == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8"]
    assert sixth == full | {"conv6": (256, 128, 3, 3)}
    assert layers(ablated(SOURCE, ["one-column"])) == full | {
        "conv1": (48, 3, 11, 11),
        "conv2": (128, 48, 5, 5),
        "conv3": (192, 128, 3, 3),
        "conv4": (192, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
    }
    for name in ("tanh", "no-norm", "pool-2x2", "no-noise", "no-dropout", "half-exchange"):
        assert layers(ablated(SOURCE, [name])) == full


def test_each_comparison_changes_what_it_says_and_nothing_else() -> None:
    plain = ablated(SOURCE, ["no-norm"])
    assert [conv.then for conv in plain.conv[:2]] == [("pool", "activation"), ("activation", "pool")]
    assert replace(plain, name="source", conv=SOURCE.conv) == SOURCE
    quiet = ablated(SOURCE, ["no-noise"])
    assert {phase.sigma for phase in quiet.phase} == {0.0}
    assert replace(quiet, name="source", phase=SOURCE.phase) == SOURCE
    both = ablated(SOURCE, ["tanh", "no-dropout"])
    assert both == replace(SOURCE, name="source+tanh+no-dropout", activation="tanh", dropout=0.0)
    assert ablated(SOURCE, ["pool-2x2"]).map_sizes() == SOURCE.map_sizes() == [27, 13, 13, 13, 6]
    assert ablated(SOURCE, ["pool-2x2"]) == replace(SOURCE, name="source+pool-2x2", pool_size=2, pool_stride=2)
    assert ablated(SOURCE, ["half-exchange"]) == replace(SOURCE, name="source+half-exchange", exchange="float16")
    sixth = Conv(name="conv6", channels=128, kernel=3, padding=1, weight_std=0.03, bias=1.0)
    assert ablated(SOURCE, ["conv6"]) == replace(SOURCE, name="source+conv6", conv=(*SOURCE.conv, sixth))
    with pytest.raises(UsageError, match=r"recipe source\+no-conv4 has no conv4 to leave out"):
        ablated(SOURCE, ["no-conv4", "no-conv4"])
