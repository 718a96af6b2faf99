import pytest
import torch
from torch import Tensor

from trainer.network.parameters import Block, Parameter
from trainer.training.sgd import Sgd

MOMENTUM, DECAY = 0.9, 0.0005
# Steps with a drop, a freeze and a thaw: (rate of conv1.weight, of fc6.weight, of fc6.bias).
RATES = [(0.01, 0.01, 0.02)] * 5 + [(1e-5, 0.001, 0.02)] * 5 + [(0.0, 0.001, 0.02)] * 5 + [(1e-3, 1e-4, 0.02)] * 5
NAMES = ("conv1.weight", "fc6.weight", "fc6.bias")


def parameter(name: str, weight: Tensor) -> Parameter:
    return Parameter(Block(name), weight, torch.device("cpu"), weight.dtype)


def parameters() -> list[Parameter]:
    """fc6.weight is in two blocks, as on a half."""
    draws = torch.Generator().manual_seed(0)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "conv1.weight": [(8, 3, 5, 5)],
        "fc6.weight": [(6, 4), (6, 9)],
        "fc6.bias": [(6,)],
    }
    return [
        parameter(name, torch.randn(shape, dtype=torch.float64, generator=draws))
        for name, each in shapes.items()
        for shape in each
    ]


def by_hand(w: Tensor, gradients: list[Tensor], rates: list[float], decay: float) -> tuple[Tensor, Tensor]:
    w, v = w.clone(), torch.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        if rate:
            v = MOMENTUM * v - decay * rate * w - rate * g
            w = w + v
    return w, v


@pytest.mark.parametrize("decay_biases", [True, False])
def test_it_is_the_rule_across_drops_and_freezes(decay_biases: bool) -> None:
    placed = parameters()
    optimiser = Sgd(placed, momentum=MOMENTUM, weight_decay=DECAY, decay_biases=decay_biases)
    gradients = [[torch.randn_like(each.weight) for each in placed] for _ in RATES]
    start = [each.weight.detach().clone() for each in placed]
    for of_step, rates in zip(gradients, RATES, strict=True):
        for each, gradient in zip(placed, of_step, strict=True):
            each.gradient = gradient.clone()
        optimiser.step(dict(zip(NAMES, rates, strict=True)))
    for index, each in enumerate(placed):
        decay = DECAY if decay_biases or not each.name.endswith("bias") else 0.0
        own_rates = [rates[NAMES.index(each.name)] for rates in RATES]
        w, v = by_hand(start[index], [of_step[index] for of_step in gradients], own_rates, decay)
        torch.testing.assert_close(each.weight.detach(), w, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(optimiser.velocities[each], v, rtol=1e-12, atol=1e-14)


def test_a_frozen_tensor_and_its_velocity_keep_every_bit() -> None:
    frozen = parameter("conv1.bias", torch.ones(3))
    optimiser = Sgd([frozen], momentum=MOMENTUM, weight_decay=DECAY, decay_biases=True)
    frozen.gradient = torch.ones(3)
    optimiser.step({"conv1.bias": 0.1})
    weight, velocity = frozen.weight.detach().clone(), optimiser.velocities[frozen].clone()
    optimiser.step({"conv1.bias": 0.0})
    assert torch.equal(frozen.weight, weight)
    assert torch.equal(optimiser.velocities[frozen], velocity)


def test_after_a_drop_old_velocity_goes_on_at_its_old_rate() -> None:
    one = parameter("fc6.weight", torch.zeros(1, dtype=torch.float64))
    optimiser = Sgd([one], momentum=MOMENTUM, weight_decay=0.0, decay_biases=True)
    one.gradient = torch.ones(1, dtype=torch.float64)
    optimiser.step({"fc6.weight": 1.0})
    one.gradient = torch.zeros(1, dtype=torch.float64)
    optimiser.step({"fc6.weight": 0.001})
    assert one.weight.item() == pytest.approx(-1.9)  # torch.optim.SGD would be at -1.0009


def test_in_bfloat16_the_weight_stays_float32_and_the_operand_is_its_rounding() -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0))
    each = Parameter(Block("fc6.weight"), weight, torch.device("cpu"), torch.bfloat16)
    optimiser = Sgd([each], momentum=MOMENTUM, weight_decay=DECAY, decay_biases=True)
    each.gradient = torch.full((50,), 2.0, dtype=torch.bfloat16)
    for _ in range(3):
        optimiser.step({"fc6.weight": 1e-5})  # each change is far below bfloat16's steps
    expected, _ = by_hand(weight, [torch.full((50,), 2.0)] * 3, [1e-5] * 3, DECAY)
    torch.testing.assert_close(each.weight.detach(), expected)
    assert not torch.equal(each.weight, weight)
    assert torch.equal(each.operand, each.weight.to(torch.bfloat16))
