import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.ops import lrn
from trainer.ops.lrn import normalise
from trainer.recipes.layers import Norm
from trainer.recipes.named import PAPER, SOURCE
from trainer.recipes.recipe import Recipe

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def channel_norm(recipe: Recipe) -> Norm:
    return Norm("channels", recipe.lrn_size, recipe.lrn_k, recipe.lrn_alpha, recipe.lrn_beta)


SPATIAL = Norm("maps", SOURCE.spatial_size, 1.0, SOURCE.spatial_alpha, SOURCE.spatial_beta)
NORMS = {"paper": channel_norm(PAPER), "source": channel_norm(SOURCE), "spatial": SPATIAL}


def by_the_formula(x: Tensor, norm: Norm, groups: int) -> Tensor:
    """One sum for each place, in plain loops over it."""
    if norm.over == "channels" and groups > 1:
        return torch.cat([by_the_formula(part, norm, 1) for part in x.chunk(groups, dim=1)], dim=1)
    _, c, h, w = x.shape
    reach = norm.size // 2
    total = torch.zeros_like(x)
    for i in range(c):
        if norm.over == "channels":
            total[:, i] = (x[:, max(0, i - reach) : i + reach + 1] ** 2).sum(dim=1)
    for i in range(h):
        for j in range(w):
            if norm.over == "maps":
                near = x[:, :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
                total[:, :, i, j] = (near**2).sum(dim=(2, 3))
    return x / (norm.k + norm.alpha * total) ** norm.beta


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    groups=st.sampled_from((1, 2)),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_is_the_formula_up_to_every_edge(
    norm: Norm, shape: tuple[int, int, int, int], groups: int, layout: torch.memory_format, seed: int
) -> None:
    n, c, h, w = shape
    draws = torch.Generator().manual_seed(seed)
    x = 100 * torch.randn(n, groups * c, h, w, dtype=torch.float64, generator=draws)
    y = normalise(x.contiguous(memory_format=layout), norm, groups)
    torch.testing.assert_close(y, by_the_formula(x, norm, groups), rtol=1e-13, atol=0)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("norm", [*NORMS.values(), Norm("channels", 3, 1.0, 0.5, 0.6)], ids=[*NORMS, "other constants"])
def test_its_gradients_are_those_of_the_function(norm: Norm, rectified: bool) -> None:
    x = (30 * torch.randn(1, 12, 6, 5, dtype=torch.float64)).contiguous(memory_format=torch.channels_last)
    bias = 10 * torch.randn(12, dtype=torch.float64)

    def biased(x: Tensor, bias: Tensor) -> Tensor:
        return normalise(x, norm, 2, bias=bias, rectified=rectified)

    assert torch.autograd.gradcheck(biased, (x.requires_grad_(), bias.requires_grad_()), atol=1e-8)
    assert torch.autograd.gradcheck(lambda x: normalise(x, norm, 2, rectified=rectified), x, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_bias_and_relu_come_first(norm: Norm) -> None:
    x, bias = 100 * torch.randn(2, 12, 6, 5), 100 * torch.randn(12)
    expected = normalise((x + bias[:, None, None]).relu(), norm, 2)
    torch.testing.assert_close(normalise(x, norm, 2, bias=bias, rectified=True), expected)


def test_in_bfloat16_only_the_ends_are_rounded() -> None:
    x = (100 * torch.randn(2, 24, 6, 5)).to(torch.bfloat16).requires_grad_()
    y, exact = normalise(x, NORMS["paper"], 2), normalise(x.float(), NORMS["paper"], 2)
    assert torch.equal(y, exact.to(torch.bfloat16))


def test_it_is_torch_s_with_alpha_times_the_size() -> None:
    x = 200 * torch.randn(4, 96, 9, 9)
    theirs = F.local_response_norm(x, PAPER.lrn_size, PAPER.lrn_size * PAPER.lrn_alpha, PAPER.lrn_beta, PAPER.lrn_k)
    torch.testing.assert_close(normalise(x, NORMS["paper"]), theirs)
    assert (PAPER.lrn_alpha, SOURCE.lrn_alpha) == pytest.approx((1e-4, 1e-4 / 5))


def test_groups_do_not_see_each_other() -> None:
    x = 200 * torch.randn(2, 12, 5, 5)
    louder = x.clone()
    louder[:, 6:] *= 10
    assert torch.equal(normalise(x, NORMS["paper"], 2)[:, :6], normalise(louder, NORMS["paper"], 2)[:, :6])
    assert not torch.equal(normalise(x, NORMS["paper"], 1)[:, :6], normalise(louder, NORMS["paper"], 1)[:, :6])


def test_pieces_change_no_bit_of_pixels_and_the_channels_stay_last(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(7, 8, 9, 10).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for piece in (1, 3 * x[0].numel(), 1 << 30):
        monkeypatch.setattr(lrn, "_CPU_PIECE", piece)
        y = normalise(x, NORMS["source"], 2)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.stride() == x.stride()
        results.append((y, gradient))
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_only_its_input_is_kept_for_the_backward() -> None:
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        normalise(x, NORMS["paper"], 2)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr()}
