"""The fused kernels do what torch does: on a GPU if there is one, else as Triton's interpreter runs them."""

import os
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.feeding.pixel_transform import PixelTransform
from trainer.ops.dropout import philox_words
from trainer.ops.lrn import normalise
from trainer.recipes.layers import InputShape, Norm
from trainer.recipes.named import PAPER, SOURCE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="triton is not installed")

NORMS = {
    "paper": Norm("channels", 5, PAPER.lrn_k, PAPER.lrn_alpha, PAPER.lrn_beta),
    "source": Norm("channels", 5, SOURCE.lrn_k, SOURCE.lrn_alpha, SOURCE.lrn_beta),
    "spatial": Norm("maps", 5, 1.0, SOURCE.spatial_alpha, SOURCE.spatial_beta),
    "another power": Norm("channels", 3, 1.0, 0.01, 0.6),
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    from trainer.kernels import fused

    return fused


def drawn(*shape: int, spread: float = 50.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (spread * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(DEVICE, dtype)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    expected = expected.detach()
    assert float((found.double() - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_and_its_gradients_are_torch_s_in_float64(
    kernels: ModuleType, name: str, rectified: bool, biased: bool, dtype: torch.dtype
) -> None:
    if DEVICE.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter cannot multiply bfloat16")
    norm, channels = NORMS[name], 24
    x, g = drawn(2, 13, 17, channels, dtype=dtype), drawn(2, 13, 17, channels, dtype=dtype)
    bias = drawn(channels, dtype=dtype) if biased else None
    x64 = x.double().permute(0, 3, 1, 2).requires_grad_()
    bias64 = None if bias is None else bias.double().requires_grad_()
    y64 = normalise(x64, norm, 2, bias=bias64, rectified=rectified)
    wanted = [x64] if bias64 is None else [x64, bias64]
    dx64, *dbias64 = torch.autograd.grad(y64, wanted, g.double().permute(0, 3, 1, 2))
    assert_close(kernels.normalise(x, bias, norm, 2, rectified).permute(0, 3, 1, 2), y64, TOLERANCE[dtype])
    dx, dbias = kernels.normalise_backward(x, g, bias, norm, 2, rectified)
    assert_close(dx.permute(0, 3, 1, 2), dx64, TOLERANCE[dtype])
    if dbias64:
        assert_close(dbias, dbias64[0], TOLERANCE[dtype])


@given(h=st.integers(3, 15), w=st.integers(3, 15), channels=st.sampled_from((1, 8, 24)), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_pooling_and_its_gradient_are_torch_s(h: int, w: int, channels: int, seed: int) -> None:
    from trainer.kernels import fused as kernels

    # Few distinct values: which of several equal ones is the largest decides where the gradient goes.
    draws = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 3, (2, h, w, channels), generator=draws).float().to(DEVICE)
    x_nchw = x.permute(0, 3, 1, 2).clone().requires_grad_()
    expected = F.max_pool2d(x_nchw, 3, 2)
    g = torch.randn(expected.shape, generator=draws).to(DEVICE).contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(expected, x_nchw, g)
    y, which = kernels.max_pool(x)
    assert torch.equal(y.permute(0, 3, 1, 2), expected)
    found = kernels.max_pool_backward(g.permute(0, 2, 3, 1), which, h, w).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, dx)


def test_bias_and_relu_in_one_pass_are_those_in_two(kernels: ModuleType) -> None:
    x, bias, g = drawn(3, 5, 7, 24), drawn(24), drawn(3, 5, 7, 24)
    leaf, offset = x.clone().requires_grad_(), bias.clone().requires_grad_()
    expected = (leaf + offset).relu()
    dx, dbias = torch.autograd.grad(expected, (leaf, offset), g)
    y = kernels.rectify(x, bias)
    assert torch.equal(y, expected)
    found, sums = kernels.rectify_backward(y, g, bias)
    assert torch.equal(found, dx)
    torch.testing.assert_close(sums, dbias)


@pytest.mark.parametrize("count", [1, 7, 4 * 300, 5000])
def test_a_mask_is_the_one_a_cpu_draws(kernels: ModuleType, count: int) -> None:
    seed, step = 2**62 + 12345, 2**33 + 7
    x = torch.ones(count, device=DEVICE)
    found = kernels.drop(x, seed, torch.tensor([step, 0], device=DEVICE), 5, 1, 1 << 31)
    expected = torch.from_numpy(philox_words(range(count), count, seed, step, 2 * 5 + 1) >= 1 << 31)
    assert torch.equal(found.cpu(), expected.float())


@given(st.integers(1, 9), st.integers(1, 90), st.data())
@settings(max_examples=12, deadline=None)
def test_a_part_s_mask_is_its_rows_of_the_whole_s(rows: int, units: int, data: st.DataObject) -> None:
    from trainer.kernels import fused as kernels

    first = data.draw(st.integers(0, rows - 1))
    count = data.draw(st.integers(1, rows - first))
    x = torch.ones(count, units, device=DEVICE)
    found = kernels.drop(x, 7, torch.tensor([3, first], device=DEVICE), 5, 1, 1 << 31, rows)
    expected = torch.from_numpy(philox_words(range(rows * units), rows * units, 7, 3, 2 * 5 + 1) >= 1 << 31)
    assert torch.equal(found.cpu(), expected.float().view(rows, units)[first : first + count])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_update_is_the_rule_and_leaves_what_has_no_rate(kernels: ModuleType, dtype: torch.dtype) -> None:
    w, v, g = drawn(70, 100), drawn(70, 100), drawn(70, 100, dtype=dtype)
    operand = w if dtype == torch.float32 else w.to(dtype)
    weight, velocity = w.clone(), v.clone()
    kernels.update(w, v, g, operand, torch.tensor(0.0, device=DEVICE), 0.9, 0.0005)
    assert torch.equal(w, weight)
    assert torch.equal(v, velocity)
    kernels.update(w, v, g, operand, torch.tensor(0.1, device=DEVICE), 0.9, 0.0005)
    expected = 0.9 * velocity - 0.0005 * 0.1 * weight - 0.1 * g.float()
    torch.testing.assert_close(v, expected)
    torch.testing.assert_close(w, weight + expected)
    if DEVICE.type == "cuda":  # Triton's interpreter cuts bfloat16 off where a GPU rounds
        assert torch.equal(operand, w.to(dtype))
    torch.testing.assert_close(operand.float(), w, rtol=2**-7, atol=0)


def test_a_gradient_of_another_layout_updates_the_same_weights(kernels: ModuleType) -> None:
    w, v, g = drawn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last), drawn(4, 6, 3, 3), drawn(4, 6, 3, 3)
    v = v.contiguous(memory_format=torch.channels_last)
    expected = w + 0.9 * v - 0.1 * g
    kernels.update(w, v, g, w, torch.tensor(0.1, device=DEVICE), 0.9, 0.0)
    torch.testing.assert_close(w, expected)


@pytest.mark.parametrize(
    ("size", "crop", "dtype"), [(64, 50, torch.uint8), (50, 50, torch.uint8), (64, 50, torch.float32)]
)
def test_pixels_are_what_torch_makes_of_them(kernels: ModuleType, size: int, crop: int, dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (2, size, size, 3)).to(dtype)
    mean = 128 + drawn(256, 256, 3).cpu()
    transform = PixelTransform(mean.numpy(), InputShape(crop), 0.9, torch.device("cpu"))
    out = torch.full((2, 57, 57, 48), 7.0, device=DEVICE)
    kernels.pixels(images.to(DEVICE), transform._mean_rows.to(DEVICE), out, 0.9)
    torch.testing.assert_close(out.permute(0, 3, 1, 2).cpu(), transform(images))
