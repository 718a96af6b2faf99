"""The reference network: its shape, its first weights, its order of operations, its dropout."""

import hashlib
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.device.streams import Streams
from trainer.network.initial import initial_tensors
from trainer.network.model import after_convolution, loss_and_error, loss_of, reference_shapes
from trainer.network.one_device import OneDevice
from trainer.ops.dropout import Masking, Scaling
from trainer.recipes.layers import Conv
from trainer.recipes.named import CIFAR10, DEMO, PAPER, RECIPES, SOURCE
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
LAYERS = SOURCE.layer_names
FULL_SHAPES = {
    "conv1.weight": (96, 3, 11, 11),
    "conv2.weight": (256, 48, 5, 5),
    "conv3.weight": (384, 256, 3, 3),
    "conv4.weight": (384, 192, 3, 3),
    "conv5.weight": (256, 192, 3, 3),
    "fc6.weight": (4096, 9216),
    "fc7.weight": (4096, 4096),
    "fc8.weight": (1000, 4096),
}
FULL_COUNTS = (34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000)


def narrow(recipe: Recipe) -> Recipe:
    return replace(recipe, width=1 / 8, classes=10)


def first_weights(recipe: Recipe, seed: int) -> dict[str, Tensor]:
    return initial_tensors(recipe, seed=seed)


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    return first_weights(SOURCE, seed=0)


def test_the_full_network_has_60965224_parameters_in_16_tensors(full: dict[str, Tensor]) -> None:
    parameters = full
    assert list(parameters) == [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    assert {name: tuple(parameters[name].shape) for name in FULL_SHAPES} == FULL_SHAPES
    by_layer = tuple(sum(p.numel() for name, p in parameters.items() if name.startswith(layer)) for layer in LAYERS)
    assert by_layer == FULL_COUNTS
    assert sum(FULL_COUNTS) == 60_965_224


def test_first_weights_have_the_recipe_s_spread_and_biases_its_constants(full: dict[str, Tensor]) -> None:
    for layer, std in zip(LAYERS, (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), strict=True):
        weight = full[f"{layer}.weight"]
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5
        bias = 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert (full[f"{layer}.bias"] == bias).all()


def test_the_paper_s_spread_is_001_everywhere() -> None:
    weights = first_weights(replace(PAPER, width=0.25), seed=0)
    for layer in LAYERS:
        widened = 1 if layer == "conv1" else 2  # for a quarter of the inputs
        assert weights[f"{layer}.weight"].std().item() == pytest.approx(0.01 * widened, rel=0.03)


def test_first_weights_are_a_function_of_seed_and_name() -> None:
    one, same, other = (first_weights(narrow(SOURCE), seed) for seed in (1, 1, 2))
    for name in one:
        assert torch.equal(one[name], same[name])
        assert torch.equal(one[name], other[name]) == name.endswith(".bias")
    assert not torch.equal(one["fc7.weight"].flatten()[:100], one["fc6.weight"].flatten()[:100])


@pytest.mark.parametrize("width", [1 / 16, 0.1, 0.25, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_any_width_gives_a_network_of_shapes_that_fit(recipe: Recipe, width: float) -> None:
    shapes = reference_shapes(replace(recipe, width=width))
    assert shapes["fc6.weight"][1] == shapes["conv5.weight"][0] * (2 * 2 if recipe is CIFAR10 else 6 * 6)
    assert all(shape[0] % 8 == 0 for name, shape in shapes.items() if not name.startswith("fc8"))


def conv_of(recipe: Recipe, name: str) -> Conv:
    return next(conv for conv in recipe.conv if conv.name == name)


def written_out(x: Tensor, recipe: Recipe, order: tuple[str, ...]) -> Tensor:
    """The block written out with torch's own normalisation, each half by itself."""
    for op in order:
        if op == "activation":
            x = x.clamp_min(0)
        elif op == "pool":
            x = F.max_pool2d(x, 3, 2)
        else:
            lrn = (5, 5 * recipe.lrn_alpha, 0.75, 2.0)
            x = torch.cat([F.local_response_norm(half, *lrn) for half in x.chunk(2, dim=1)], dim=1)
    return x


@pytest.mark.parametrize(
    ("recipe", "layer", "order"),
    [
        (PAPER, "conv1", ("activation", "lrn", "pool")),
        (PAPER, "conv2", ("activation", "lrn", "pool")),
        (SOURCE, "conv1", ("lrn", "pool", "activation")),
        (SOURCE, "conv3", ("activation",)),
        (SOURCE, "conv4", ("activation",)),
    ],
)
def test_what_follows_a_convolution_is_in_the_recipe_s_order(
    recipe: Recipe, layer: str, order: tuple[str, ...]
) -> None:
    x = 100 * torch.randn(2, 16, 13, 13, dtype=torch.float64)
    bias = 100 * torch.randn(16, dtype=torch.float64)
    expected = written_out(x + bias[:, None, None], recipe, order)
    torch.testing.assert_close(after_convolution(conv_of(recipe, layer), x, bias, recipe, groups=2), expected)


def test_the_source_normalises_conv2_in_space_too() -> None:
    x = 100 * torch.randn(2, 16, 27, 27, dtype=torch.float64)
    lrn = torch.cat([F.local_response_norm(half.relu(), 5, 1e-4, 0.75, 2.0) for half in x.chunk(2, dim=1)], dim=1)
    squares = F.avg_pool2d(lrn**2, 5, stride=1, padding=2, divisor_override=1)
    expected = F.max_pool2d(lrn / (1 + 1e-3 / 25 * squares) ** 0.75, 3, 2)
    bias = torch.zeros(16, dtype=torch.float64)
    torch.testing.assert_close(after_convolution(conv_of(SOURCE, "conv2"), x.clone(), bias, SOURCE, groups=2), expected)


def masking(seed: int, step: int, first: int = 0, whole: int | None = None) -> Masking:
    of_part = Masking.at_start(0.5, seed, CPU, CPU).part_of(whole)
    of_part.move_to(step, first, Streams())
    return of_part


def test_training_masks_half_of_the_outputs_and_does_not_scale_the_rest() -> None:
    x = torch.rand(200, 400) + 1
    y = masking(1, 2)(x, 5, half=0)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(y[kept], x[kept])


def test_in_test_outputs_are_halved() -> None:
    x = torch.rand(3, 4)
    assert torch.equal(Scaling(0.5)(x, 5, half=0), x * 0.5)


def test_a_mask_belongs_to_its_seed_step_layer_and_half() -> None:
    x = torch.ones(8, 64)
    first = masking(1, 2)(x, 5, 0)
    assert torch.equal(first, masking(1, 2)(x, 5, 0))
    others = [
        masking(9, 2)(x, 5, 0),
        masking(1, 3)(x, 5, 0),
        masking(1, 2)(x, 6, 0),
        masking(1, 2)(x, 5, 1),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_masks_are_those_that_older_checkpoints_were_trained_with() -> None:
    x = torch.ones(30, 41)
    kept = [masking(2**62 + 1, step)(x, layer, half) for step in (0, 2**33 + 7) for layer, half in ((5, 0), (6, 1))]
    bits = torch.cat(kept).to(torch.uint8).numpy().tobytes()
    assert hashlib.blake2b(bits, digest_size=8).hexdigest() == "93e56589ee1c93c1"


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_parts_get_their_rows_of_the_whole_batch_s_mask(rows: int, units: int, data: st.DataObject) -> None:
    whole = masking(3, 4)(torch.ones(rows, units), 5, 1)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, rows)))), rows]
    spans = [span for span in itertools.pairwise(cuts) if span[0] < span[1]]
    parts = [masking(3, 4, first, rows)(torch.ones(end - first, units), 5, 1) for first, end in spans]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_a_whole_batch_s_loss_and_gradient_are_the_mean_cross_entropy_s_bit_for_bit(count: int) -> None:
    draws = torch.Generator().manual_seed(count)
    scores, labels = torch.randn(count, 7, generator=draws, requires_grad=True), torch.randint(7, (count,))
    loss, mean = loss_of(scores, labels, count), F.cross_entropy(scores, labels)
    assert torch.equal(loss, mean)
    assert torch.equal(*(torch.autograd.grad(each, scores)[0] for each in (loss, mean)))
    wrong = (scores.argmax(dim=1) != labels).float().mean()
    assert torch.equal(loss_and_error(loss, scores, labels, count), torch.stack((mean, wrong)).detach())


def test_a_step_gives_the_mean_cross_entropy_the_error_and_fresh_gradients() -> None:
    net = OneDevice(narrow(SOURCE), seed=0, device=CPU)
    x, labels = (60 * torch.randn(4, 3, 227, 227),), torch.arange(4)
    net.train_step(x, labels, step=0)
    first = {each.name: each.gradient for each in net.parameters}
    told = net.train_step(x, labels, step=0)
    again = {each.name: each.gradient for each in net.parameters}
    for name, gradient in again.items():
        assert gradient is not None
        assert torch.equal(gradient, first[name])  # type: ignore[arg-type]
    assert told.shape == (2,)
    assert not told.requires_grad
    assert told[0].item() == pytest.approx(2.3, abs=1.5)
    errors = [net.train_step(x, torch.full((4,), label), step=0)[1].item() for label in range(10)]
    assert sum(errors) == pytest.approx(9)  # each picture has one likeliest class


def test_predictions_are_probabilities_the_same_each_time() -> None:
    net = OneDevice(narrow(SOURCE), seed=0, device=CPU)
    x = (60 * torch.randn(3, 3, 227, 227),)
    probabilities = net.predict(x)
    assert probabilities.shape == (3, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    assert torch.equal(probabilities, net.predict(x))


def test_the_demo_starts_to_learn_within_thirty_steps() -> None:
    recipe = replace(DEMO, width=1 / 8, classes=2)
    net = OneDevice(recipe, seed=0, device=CPU)
    optimiser = Sgd(net.parameters, momentum=recipe.momentum, weight_decay=recipe.weight_decay, decay_biases=False)
    x = (torch.randn(16, 3, 227, 227) * torch.tensor([0.2, 1.0]).repeat(8).view(16, 1, 1, 1),)
    labels = torch.tensor([0, 1]).repeat(8)
    losses = []
    for step in range(30):
        losses.append(net.train_step(x, labels, step=step)[0].item())
        optimiser.step(Schedule(recipe).rates(0))
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5
