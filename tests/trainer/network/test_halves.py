"""The two halves are the reference, placed: outputs, loss, every gradient, every weight."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import CheckpointError
from trainer.network.halves import blocks_of, segments
from trainer.network.model import reference_shapes
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import PAPER, SOURCE
from trainer.recipes.recipe import Recipe

CPU = torch.device("cpu")
# The recipes' own spread of first weights makes a net this narrow answer the same to everything; He's does not.
NARROW = {
    recipe.name: replace(recipe.with_each_layer(weight_std="he"), width=1 / 8, classes=10) for recipe in (SOURCE, PAPER)
}


def pair(recipe: Recipe, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[OneDevice, TwoHalves]:
    reference = OneDevice(recipe, seed=seed, device=CPU, dtype=dtype)
    return reference, TwoHalves(recipe, seed=seed, devices=(CPU, CPU), dtype=dtype)


def gradients(net: Net) -> dict[str, Tensor]:
    return net.gather({each: each.gradient for each in net.parameters if each.gradient is not None})


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def assert_equal_networks(recipe: Recipe, batch_sizes: tuple[int, ...]) -> None:
    reference, halves = pair(recipe)
    draws = torch.Generator().manual_seed(0)
    for step, count in enumerate(batch_sizes):
        x = 60 * torch.randn(count, 3, 227, 227, dtype=torch.float64, generator=draws)
        labels = torch.randint(recipe.classes, (count,), generator=draws)
        loss = reference.train_step((x,), labels, step=step)
        assert relative_error(halves.train_step((x, x), labels, step=step), loss) < 1e-12
        expected, found = gradients(reference), gradients(halves)
        assert len(expected) == 16
        assert expected.keys() == found.keys()
        assert all(gradient.norm() > 0 for gradient in expected.values())
        errors = {name: relative_error(found[name], expected[name]) for name in expected}
        assert max(errors.values()) < 1e-12, errors
        assert relative_error(halves.predict((x, x)), reference.predict((x,))) < 1e-12


@pytest.mark.parametrize("recipe", NARROW.values(), ids=NARROW.keys())
def test_the_halves_equal_the_reference_for_batches_of_changing_size(recipe: Recipe) -> None:
    assert_equal_networks(recipe, (4, 2, 5))


def test_the_network_is_cut_before_each_layer_that_reads_both() -> None:
    cut = segments(SOURCE)
    assert [tuple(layer.name for layer in segment.layers) for segment in cut] == [
        ("conv1", "conv2"),
        ("conv3", "conv4", "conv5"),
        ("fc6",),
        ("fc7",),
        ("fc8",),
    ]
    assert [segment.on for segment in cut] == [(0, 1)] * 4 + [(0,)]
    assert [segment.exchanges for segment in cut] == [False, True, True, True, True]


def test_blocks_cover_every_reference_tensor_once() -> None:
    shapes = reference_shapes(NARROW["source"])
    covered = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for half in (0, 1):
        for layer in SOURCE.layers:
            if half == 0 or layer.name != "fc8":
                for block in blocks_of(layer, half, SOURCE, shapes):
                    block.of(covered[block.name]).add_(1)
    assert all((tensor == 1).all() for tensor in covered.values())


def test_blocks_have_the_shapes_of_the_paper_s_figure() -> None:
    shapes = reference_shapes(SOURCE)
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = {
        layer.name: [tuple(block.of(meta[block.name]).shape) for block in blocks_of(layer, 0, SOURCE, shapes)]
        for layer in SOURCE.layers
    }
    assert found == {
        "conv1": [(48, 3, 11, 11), (48,)],
        "conv2": [(128, 48, 5, 5), (128,)],
        "conv3": [(192, 128, 3, 3), (192,), (192, 128, 3, 3)],
        "conv4": [(192, 192, 3, 3), (192,)],
        "conv5": [(128, 192, 3, 3), (128,)],
        "fc6": [(2048, 4608), (2048,), (2048, 4608)],
        "fc7": [(2048, 2048), (2048,), (2048, 2048)],
        "fc8": [(1000, 2048), (1000,), (1000, 2048)],
    }


@given(seed=st.integers(0, 2**31), width=st.sampled_from((1 / 16, 1 / 8, 0.2)), classes=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_scatter_and_gather_are_inverse_for_weights_and_velocities(seed: int, width: float, classes: int) -> None:
    recipe = replace(SOURCE, width=width, classes=classes)
    draws = torch.Generator().manual_seed(seed)
    for net in pair(recipe, torch.float32):
        drawn = {n: torch.randn(shape, generator=draws) for n, shape in reference_shapes(recipe).items()}
        net.scatter(drawn)
        velocities = {each: torch.zeros_like(each.weight) for each in net.parameters}
        net.scatter({name: -tensor for name, tensor in drawn.items()}, velocities)
        weights, minus = net.gather(), net.gather(velocities)
        assert all(torch.equal(weights[name], drawn[name]) for name in drawn)
        assert all(torch.equal(minus[name], -drawn[name]) for name in drawn)


def test_each_network_loads_the_other_s_weights() -> None:
    reference, halves = pair(NARROW["source"], seed=1)
    other_reference, other_halves = pair(NARROW["source"], seed=2)
    x = 60 * torch.randn(2, 3, 227, 227, dtype=torch.float64)
    other_reference.scatter(halves.gather())
    other_halves.scatter(reference.gather())
    expected = reference.predict((x,))
    assert torch.equal(other_reference.predict((x,)), expected)
    torch.testing.assert_close(other_halves.predict((x, x)), expected)


def test_both_start_from_the_same_weights() -> None:
    reference, halves = pair(NARROW["source"], seed=3)
    weights, placed = reference.gather(), halves.gather()
    assert all(torch.equal(weights[name], placed[name]) for name in weights)


def test_weights_of_another_network_are_refused_by_name() -> None:
    _, halves = pair(NARROW["source"])
    weights = halves.gather()
    wider = weights | {"fc8.weight": torch.zeros(7, 7)}
    with pytest.raises(CheckpointError, match=r"fc8.weight is 7x7, this network's 10x512"):
        halves.scatter(wider)
    with pytest.raises(CheckpointError, match="lacks conv1.bias"):
        halves.scatter({name: tensor for name, tensor in weights.items() if name != "conv1.bias"})
    with pytest.raises(CheckpointError, match="fc9.weight"):
        halves.scatter(weights | {"fc9.weight": torch.zeros(1)})
    assert all(torch.equal(tensor, weights[name]) for name, tensor in halves.gather().items())
