"""The update, and the schedules that give its rates, against the rule in a plain loop over Python's floats:

v = momentum v - weight_decay lr w - lr g;  w = w + v;  and neither changes where lr is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.network.parameters import Block, Parameter
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import PAPER, SOURCE
from trainer.recipes.recipe import Phase, Plateau, Recipe
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
LAYERS = SOURCE.layer_names
NAMES = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
Numbers = dict[str, list[float]]  # by parameter


@dataclass
class Plain:
    """Weights and velocities as lists of floats."""

    recipe: Recipe
    weights: Numbers
    velocities: Numbers

    def step(self, gradients: Numbers, rates: Mapping[str, float]) -> None:
        for name, w in self.weights.items():
            v, g, lr = self.velocities[name], gradients[name], rates[name]
            decay = 0.0 if name.endswith(".bias") and not self.recipe.decay_biases else self.recipe.weight_decay
            for k in range(len(w)):
                if lr != 0:
                    v[k] = self.recipe.momentum * v[k] - decay * lr * w[k] - lr * g[k]
                    w[k] = w[k] + v[k]


class Ours:
    """The trainer's optimiser on tensors of a few numbers, one for each name, beside the plain loop."""

    def __init__(self, recipe: Recipe, seed: int, dtype: torch.dtype = torch.float64) -> None:
        self._draws, self._dtype = np.random.default_rng(seed), dtype
        drawn = self._numbers()
        self.parameters = [Parameter(Block(name), self._tensor(drawn[name]), CPU, dtype) for name in NAMES]
        self.sgd = sgd_of(recipe, self.parameters)
        self.plain = Plain(recipe, drawn, {name: [0.0] * len(each) for name, each in drawn.items()})

    def step(self, rates: Mapping[str, float], plain_rates: Mapping[str, float]) -> None:
        """One step of both, from the same gradients."""
        gradients = self._numbers()
        for parameter in self.parameters:
            parameter.gradient = self._tensor(gradients[parameter.name])
        self.sgd.step(rates)
        self.plain.step(gradients, plain_rates)

    def assert_same(self, rtol: float = 1e-11, atol: float = 1e-13) -> None:
        for each in self.parameters:
            weights, velocities = each.weight.detach().double(), self.sgd.velocities[each].double()
            np.testing.assert_allclose(weights, self.plain.weights[each.name], rtol, atol, err_msg=each.name)
            np.testing.assert_allclose(velocities, self.plain.velocities[each.name], rtol, atol, err_msg=each.name)

    def _numbers(self) -> Numbers:
        """Some for each name; they have few digits, so that float32 holds them too."""
        return {name: (self._draws.integers(-999, 999, 3) / 1024).tolist() for name in NAMES}

    def _tensor(self, numbers: list[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=self._dtype)


def sgd_of(recipe: Recipe, parameters: list[Parameter]) -> Sgd:
    return Sgd(
        parameters,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
    )


def plain_rates(recipe: Recipe, epoch: int, drops: int) -> dict[str, float]:
    """The rates of the phase that began last, read off the recipe word by word."""
    phase = max((phase for phase in recipe.phase if phase.first_epoch <= epoch), key=lambda phase: phase.first_epoch)
    factor = recipe.plateau.factor if recipe.plateau else 1.0
    rates: dict[str, float] = {}
    for layer in LAYERS:
        rate = phase.layer_rates.get(layer, phase.rate)
        of_bias = rate if phase.bias_rate is None or rate == 0 else phase.bias_rate
        rates |= {f"{layer}.weight": rate / factor**drops, f"{layer}.bias": of_bias / factor**drops}
    return rates


def source_rates(epoch: int) -> dict[str, float]:
    """As printed for the 2012 program, which counted epochs from 1."""
    rate = 0.01 if epoch + 1 < 25 else 0.001 if epoch + 1 < 51 else 0.0001 if epoch + 1 < 79 else 0.00001
    rates = {name: 0.02 if name.endswith("bias") else rate for name in NAMES}
    if epoch + 1 >= 67:
        rates["conv1.weight"] = 0.00001
    if epoch + 1 >= 72:
        rates["conv1.weight"] = rates["conv1.bias"] = 0.0
    return rates


rate = st.sampled_from([0.0, 1e-5, 1e-3, 0.01, 0.3])
phases = st.builds(
    Phase, st.integers(1, 11), rate, st.none() | rate, st.dictionaries(st.sampled_from(LAYERS), rate, max_size=4)
)


@given(
    first=st.sampled_from([0.01, 0.1]),
    later=st.lists(phases, max_size=5, unique_by=lambda phase: phase.first_epoch),
    plateau=st.none() | st.builds(Plateau, st.sampled_from([2.0, 10.0]), st.integers(0, 3), st.just(1)),
    errors=st.lists(st.sampled_from([0.5, 0.9]), min_size=12, max_size=12),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.0005]),
    decay_biases=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=50)
def test_any_schedule_s_updates_are_the_rule_in_plain_floats(
    first: float,
    later: list[Phase],
    plateau: Plateau | None,
    errors: list[float],
    momentum: float,
    weight_decay: float,
    decay_biases: bool,
    seed: int,
) -> None:
    recipe = replace(
        SOURCE,
        phase=(Phase(0, first), *sorted(later, key=lambda phase: phase.first_epoch)),
        plateau=plateau,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_biases=decay_biases,
    )
    ours, schedule, drops, best = Ours(recipe, seed), Schedule(recipe), 0, float("inf")
    for epoch, error in enumerate(errors):
        for _ in range(3):
            ours.step(schedule.rates(epoch), plain_rates(recipe, epoch, drops))
        schedule.observe(error)
        drops += bool(plateau and error >= best and drops < plateau.drops)  # a patience of one epoch
        best = min(best, error)
    ours.assert_same()


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float64, 1e-11, 1e-13), (torch.float32, 2e-5, 2e-6)], ids=["float64", "float32"]
)
def test_the_recipes_own_schedules_are_followed_as_in_plain_floats(
    dtype: torch.dtype, rtol: float, atol: float
) -> None:
    source, schedule = Ours(SOURCE, 1, dtype), Schedule(SOURCE)
    for epoch in range(SOURCE.epochs):
        for _ in range(4):
            source.step(schedule.rates(epoch), source_rates(epoch))
    source.assert_same(rtol, atol)
    paper, schedule = Ours(PAPER, 2, dtype), Schedule(PAPER)
    for epoch in range(30):  # the error falls until epoch 4, and a drop comes every five epochs after that
        for _ in range(4):
            paper.step(schedule.rates(epoch), dict.fromkeys(NAMES, 0.01 / 10 ** min(3, max(0, (epoch - 5) // 5))))
        schedule.observe(max(0.5, 0.9 - epoch / 10))
    paper.assert_same(rtol, atol)


@pytest.mark.parametrize("recipe", [PAPER, SOURCE], ids=["paper", "source"])
def test_a_net_in_two_halves_is_trained_by_the_rule_to_the_end_of_a_shortened_schedule(recipe: Recipe) -> None:
    recipe = replace(recipe, width=1 / 16, classes=5, input_size=67, crop=67).stretched(12)
    net, schedule = TwoHalves(recipe, seed=0, devices=(CPU, CPU), dtype=torch.float64), Schedule(recipe)
    sgd = sgd_of(recipe, list(net.parameters))
    w = {name: tensor.numpy().copy() for name, tensor in net.gather().items()}
    v = {name: np.zeros_like(each) for name, each in w.items()}
    seen = set()
    for step in range(24):
        x, labels = torch.randn(4, 3, 67, 67, dtype=torch.float64), torch.arange(4)
        net.train_step((x, x), labels, step=step)
        gradients = net.gather({each: each.gradient for each in net.parameters if each.gradient is not None})
        rates = schedule.rates(step // 2)
        seen.add(rates["conv1.weight"])
        sgd.step(rates)
        for name, lr in rates.items():
            decay = recipe.weight_decay if recipe.decay_biases or name.endswith("weight") else 0.0
            if lr:
                v[name] = recipe.momentum * v[name] - decay * lr * w[name] - lr * gradients[name].numpy()
                w[name] = w[name] + v[name]
        if step % 2:
            schedule.observe(0.9)
    assert len(seen) >= 4, "there were drops"
    for name, tensor in net.gather().items():
        np.testing.assert_allclose(tensor.numpy(), w[name], rtol=1e-11, atol=1e-14, err_msg=name)


def test_torch_s_sgd_is_the_same_up_to_the_first_drop_and_another_after_it() -> None:
    ours = Ours(PAPER, seed=3)
    theirs = [each.weight.detach().clone().requires_grad_() for each in ours.parameters]
    sgd = torch.optim.SGD(theirs, lr=0.01, momentum=PAPER.momentum, weight_decay=PAPER.weight_decay)

    def step(lr: float) -> list[float]:
        """Both step; the largest difference in each tensor."""
        ours.step(dict.fromkeys(NAMES, lr), dict.fromkeys(NAMES, lr))
        for tensor, each in zip(theirs, ours.parameters, strict=True):
            tensor.grad = each.gradient
        sgd.param_groups[0]["lr"] = lr
        sgd.step()
        pairs = zip(theirs, ours.parameters, strict=True)
        return [(tensor - each.weight).abs().max().item() for tensor, each in pairs]

    for _ in range(20):
        assert max(step(0.01)) < 1e-13
    under_way = [PAPER.momentum * ours.sgd.velocities[each].abs().max().item() for each in ours.parameters]
    assert step(0.001) == pytest.approx([0.9 * velocity for velocity in under_way], rel=1e-9)
    assert min(under_way) > 1e-4
    ours.assert_same()
