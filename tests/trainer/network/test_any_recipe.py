"""Whatever layers a recipe lists: undivided and in two halves it is the same network."""

from dataclasses import replace

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.errors import UsageError
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.recipes.layers import Conv, Linear, Op
from trainer.recipes.named import PAPER
from trainer.recipes.recipe import Recipe

CPU = torch.device("cpu")
OPS: tuple[Op, ...] = ("activation", "lrn", "spatial", "pool")


@st.composite
def convs(draw: st.DrawFn) -> tuple[Conv, ...]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        kernel = draw(st.sampled_from((1, 3)))
        conv = Conv(
            name=f"conv{number + 1}",
            channels=draw(st.sampled_from((4, 8))),
            kernel=kernel,
            stride=draw(st.sampled_from((1, 1, 2))),
            padding=0 if number == 0 else draw(st.integers(0, kernel // 2)),
            reads="image" if number == 0 else draw(st.sampled_from(("own", "both"))),
            then=tuple(draw(st.lists(st.sampled_from(OPS), max_size=3, unique=True))),
            weight_std="he",
            bias=draw(st.sampled_from((0.0, 0.5))),
        )
        found.append(conv)
    return tuple(found)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    hidden = tuple(
        Linear(name=f"fc{number}", units=8, reads=draw(st.sampled_from(("own", "both"))), weight_std="he")
        for number in range(draw(st.integers(0, 2)))
    )
    conv = draw(convs())
    try:
        return replace(
            PAPER,
            conv=conv,
            fc=(*hidden, Linear(name="scores", weight_std="he")),
            classes=3,
            input_size=conv[0].kernel + 12 * conv[0].stride,
            crop=8,
            activation=draw(st.sampled_from(("relu", "tanh"))),
            pool_size=draw(st.sampled_from((2, 3))),
            dropout=draw(st.sampled_from((0.0, 0.5))),
        )
    except UsageError:  # maps too small
        assume(False)
        raise


def outcome(net: Net, recipe: Recipe) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, recipe.input_size, recipe.input_size, dtype=torch.float64, generator=draws)
    pixels = (x,) * len(net.input_devices)
    told = net.train_step(pixels, torch.arange(3), step=0).clone()
    gradients = net.gather({each: each.gradient for each in net.parameters if each.gradient is not None})
    return {"told": told, "probabilities": net.predict(pixels), **gradients}


@settings(max_examples=40, deadline=None)
@given(recipe=recipes())
def test_any_list_of_layers_is_the_same_network_undivided_and_in_two_halves(recipe: Recipe) -> None:
    whole = outcome(OneDevice(recipe, seed=0, device=CPU, dtype=torch.float64), recipe)
    halves = outcome(TwoHalves(recipe, seed=0, devices=(CPU, CPU), dtype=torch.float64), recipe)
    assert whole.keys() == halves.keys()
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], rtol=1e-10, atol=1e-12)
