"""Whole steps with the fused kernels in their places, as Triton's interpreter runs them, are those of plain torch."""

import os
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.ops import activation, dropout, lrn, pooling
from trainer.recipes.named import PAPER, SOURCE
from trainer.training import sgd
from trainer.training.schedule import Schedule

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels itself: tests/gpu/test_gpu.py", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="triton is not installed")

CPU = torch.device("cpu")
SIDE = 67  # of the pictures: conv5 makes maps of one pixel
STEPS = 2
T = TypeVar("T")
PLACES: tuple[ModuleType, ...] = (activation, dropout, lrn, pooling, sgd)


def trained(recipe_name: str, halves: bool) -> dict[str, Tensor]:
    """Losses, gradients, weights and predictions of some steps."""
    recipe = {"paper": PAPER, "source": SOURCE}[recipe_name].with_each_layer(weight_std="he")
    recipe = replace(recipe, width=1 / 16, classes=5, input_size=SIDE, crop=SIDE)
    net = TwoHalves(recipe, seed=0, devices=(CPU, CPU)) if halves else OneDevice(recipe, seed=0, device=CPU)
    update = sgd.Sgd(net.parameters, momentum=0.9, weight_decay=5e-4, decay_biases=True)
    rates = {name: rate / 10 for name, rate in Schedule(recipe).rates(0).items()}
    draws, found = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for step in range(STEPS):
        x = (60 * torch.randn(2, 3, SIDE, SIDE, generator=draws),) * len(net.input_devices)
        found[f"loss {step}"] = net.train_step(x, torch.tensor([step, 3]), step=step)[0].clone()
        gradients = {each: each.gradient for each in net.parameters if each.gradient is not None}
        found |= {f"gradient {step} {name}": value for name, value in net.gather(gradients).items()}
        update.step(rates)
    return found | net.gather() | {"predicted": net.predict(x).clone()}


def noting(kernel: Callable[..., T], name: str, used: set[str]) -> Callable[..., T]:
    def noted(*arguments: object) -> T:
        used.add(name)
        return kernel(*arguments)

    return noted


@pytest.mark.parametrize(("recipe_name", "halves"), [("source", True), ("paper", False)])
def test_a_training_with_every_kernel_in_its_place_is_that_without(
    recipe_name: str, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.kernels import fused

    expected = trained(recipe_name, halves)
    used = set[str]()

    def kernels_for(_: Tensor) -> ModuleType:
        return fused

    for place in PLACES:
        monkeypatch.setattr(place, "kernels_for", kernels_for)
    for name in fused.__all__:
        monkeypatch.setattr(fused, name, noting(getattr(fused, name), name, used))
    found = trained(recipe_name, halves)
    assert used == set(fused.__all__) - {"pixels"}
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm() / tensor.norm().clamp_min(1e-30)) < 1e-4, name
