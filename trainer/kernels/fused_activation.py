"""Bias and ReLU."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rectify(
    x_ptr, g_ptr, bias_ptr, out_ptr, sums_ptr, rows, channels: tl.constexpr,
    backward: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, block)
    bias = tl.load(bias_ptr + channel, channel < channels, 0.0).to(tl.float32)
    sums = tl.zeros((block,), tl.float32)
    for turn in range(turns):
        row = (tl.program_id(0) * turns + turn) * block_rows + tl.arange(0, block_rows)
        at = row[:, None] * channels + channel[None, :]
        inside = (row[:, None] < rows) & (channel[None, :] < channels)
        x = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
        if backward:
            out = tl.where(x > 0, tl.load(g_ptr + at, inside, 0.0).to(tl.float32), 0.0)
            sums += tl.sum(out, axis=0)
        else:
            out = tl.maximum(x + bias[None, :], 0.0)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), inside)
    if backward:
        tl.store(sums_ptr + tl.program_id(0) * channels + channel, sums, channel < channels)


def rectify(x_nhwc: Tensor, bias: Tensor) -> Tensor:
    """max(x + bias, 0)."""
    return _rectified(x_nhwc, None, bias)[0]


def rectify_backward(y_nhwc: Tensor, g_nhwc: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by x and by the bias."""
    dx, sums = _rectified(y_nhwc, g_nhwc, bias)
    return dx, sums.sum(dim=0)


def _rectified(x: Tensor, g: Tensor | None, bias: Tensor) -> tuple[Tensor, Tensor]:
    out, channels = torch.empty_like(x), x.shape[3]
    rows, block_rows, turns = x.numel() // channels, 16, 8
    programs = triton.cdiv(rows, block_rows * turns)
    sums = torch.empty(0 if g is None else programs, channels, device=x.device)
    _rectify[(programs,)](
        x, x if g is None else g, bias, out, sums, rows, channels,
        g is not None, block_rows, max(16, triton.next_power_of_2(channels)), turns, num_warps=4,
    )  # fmt: skip
    return out, sums
