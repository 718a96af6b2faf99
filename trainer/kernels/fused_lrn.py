"""Local response normalisation (`trainer/ops/lrn.py`).

A sum over a window is a product with a banded matrix of ones, |i - j| <= size // 2: tensor cores do it, and every load
stays wide.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.recipes.layers import Norm


@triton.jit
def _powers(s, beta: tl.constexpr):
    """s^-beta and 1 / s; for beta = 3/4 without a logarithm."""
    root = tl.rsqrt(s)
    power = root * tl.sqrt(root) if beta == 0.75 else tl.exp2(-beta * tl.log2(s))
    return power, root * root


@triton.jit
def _band(size: tl.constexpr, n: tl.constexpr, dtype: tl.constexpr):
    i = tl.arange(0, n)
    return (tl.abs(i[:, None] - i[None, :]) <= size // 2).to(dtype)


@triton.jit
def _channels(
    x_ptr, g_ptr, bias_ptr, out_ptr, sums_ptr, rows, k, alpha, beta: tl.constexpr,
    channels: tl.constexpr, in_group: tl.constexpr, size: tl.constexpr, biased: tl.constexpr, rectified: tl.constexpr,
    backward: tl.constexpr, dot_type: tl.constexpr, precision: tl.constexpr,
    block_rows: tl.constexpr, block: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    """`turns` blocks of rows of one group's channels, and the sum of what it writes."""
    offset = tl.arange(0, block)
    channel = tl.program_id(1) * in_group + offset
    band = _band(size, block, dot_type)
    bias = tl.load(bias_ptr + channel, offset < in_group, 0.0).to(tl.float32)[None, :] if biased else 0.0
    sums = tl.zeros((block,), tl.float32)
    for turn in range(turns):
        row = (tl.program_id(0) * turns + turn) * block_rows + tl.arange(0, block_rows)
        at = row[:, None] * channels + channel[None, :]
        inside = (row[:, None] < rows) & (offset[None, :] < in_group)
        x = tl.load(x_ptr + at, inside, 0.0).to(tl.float32) + bias
        if rectified:
            x = tl.maximum(x, 0.0)
        s = k + alpha * tl.dot((x * x).to(dot_type), band, input_precision=precision)
        power, inverse = _powers(s, beta)
        if backward:
            u = tl.load(g_ptr + at, inside, 0.0).to(tl.float32) * power
            total = tl.dot((u * x * inverse).to(dot_type), band, input_precision=precision)
            out = u - 2 * alpha * beta * x * total
            if rectified:
                out = tl.where(x > 0, out, 0.0)
            sums += tl.sum(out, axis=0)
        else:
            out = x * power
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), inside)
    if backward:
        tl.store(sums_ptr + tl.program_id(0) * channels + channel, sums, offset < in_group)


@triton.jit
def _map_row(
    x_ptr, bias, image, h, height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr, column, channel,
    rectified: tl.constexpr,
):  # fmt: skip
    """Row h of the maps, zeros outside; its offsets; and its mask."""
    at = ((image * height + h) * width + column[:, None]) * channels + channel[None, :]
    inside = (h >= 0) & (h < height) & (column[:, None] < width) & (channel[None, :] < channels)
    x = tl.where(inside, tl.load(x_ptr + at, inside, 0.0).to(tl.float32) + bias, 0.0)
    return tl.maximum(x, 0.0) if rectified else x, at, inside


@triton.jit
def _maps(
    x_ptr, g_ptr, bias_ptr, out_ptr, sums_ptr, alpha, beta: tl.constexpr,
    height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr, biased: tl.constexpr, rectified: tl.constexpr,
    backward: tl.constexpr, dot_type: tl.constexpr, precision: tl.constexpr,
    block_w: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """A block of one image's channels, row by row down the map.

    Row h gives s at row h - 2 and the gradient at row h - 4: the loop runs past the end. It goes five rows at a time,
    for Triton 3.6 loses values handed on through more than one loop variable.
    """
    image = tl.program_id(0)
    column, channel = tl.arange(0, block_w), tl.program_id(1) * block_c + tl.arange(0, block_c)
    band = _band(5, block_w, dot_type)
    bias = tl.load(bias_ptr + channel, channel < channels, 0.0).to(tl.float32)[None, :] if biased else 0.0
    sums = tl.zeros((block_c,), tl.float32)
    a0 = tl.zeros((block_w, block_c), tl.float32)
    a1, a2, a3 = a0, a0, a0
    b0, b1, b2, b3 = a0, a0, a0, a0
    u0, u1 = a0, a0
    lag: tl.constexpr = 4 if backward else 2
    for five in range((height + lag + 4) // 5):
        for turn in tl.static_range(5):
            h = 5 * five + turn
            x, _, _ = _map_row(x_ptr, bias, image, h, height, width, channels, column, channel, rectified)
            a4 = tl.dot(band, (x * x).to(dot_type), input_precision=precision)
            s = 1 + alpha * (a0 + a1 + a2 + a3 + a4)
            a0, a1, a2, a3 = a1, a2, a3, a4
            power, inverse = _powers(s, beta)
            x, at, inside = _map_row(x_ptr, bias, image, h - 2, height, width, channels, column, channel, rectified)
            if backward:
                u = tl.load(g_ptr + at, inside, 0.0).to(tl.float32) * power
                b4 = tl.dot(band, (u * x * inverse).to(dot_type), input_precision=precision)
                x, at, inside = _map_row(x_ptr, bias, image, h - 4, height, width, channels, column, channel, rectified)
                out = u0 - 2 * alpha * beta * x * (b0 + b1 + b2 + b3 + b4)
                if rectified:
                    out = tl.where(x > 0, out, 0.0)
                sums += tl.sum(tl.where(inside, out, 0.0), axis=0)
                b0, b1, b2, b3 = b1, b2, b3, b4
                u0, u1 = u1, u
            else:
                out = x * power
            tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), inside)
    if backward:
        tl.store(sums_ptr + image * channels + channel, sums, channel < channels)


def normalise(x_nhwc: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool) -> Tensor:
    return _normalise(x_nhwc, None, bias, norm, groups, rectified)[0]


def normalise_backward(
    x_nhwc: Tensor, g_nhwc: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients by x and by the bias."""
    dx, sums = _normalise(x_nhwc, g_nhwc, bias, norm, groups, rectified)
    return dx, None if bias is None else sums.sum(dim=0)


def _normalise(
    x: Tensor, g: Tensor | None, bias: Tensor | None, norm: Norm, groups: int, rectified: bool
) -> tuple[Tensor, Tensor]:
    n, h, w, c = x.shape
    out, backward, biased = torch.empty_like(x), g is not None, bias is not None
    pointers = x, x if g is None else g, x if bias is None else bias, out
    dot_type, precision = _sums(x)
    if norm.over == "channels":
        block, turns = _dot_side(c // groups), 4
        block_rows = _tile(x, backward, precision) // block
        programs = triton.cdiv(n * h * w, block_rows * turns)
        sums = torch.empty(programs if backward else 0, c, device=x.device)
        _channels[(programs, groups)](
            *pointers, sums, n * h * w, norm.k, norm.alpha, norm.beta, c, c // groups, norm.size, biased, rectified,
            backward, dot_type, precision, block_rows, block, turns, num_warps=4,
        )  # fmt: skip
    else:
        block_c, sums = 32, torch.empty(n if backward else 0, c, device=x.device)
        _maps[(n, triton.cdiv(c, block_c))](
            *pointers, sums, norm.alpha, norm.beta, h, w, c, biased, rectified,
            backward, dot_type, precision, _dot_side(w), block_c, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out, sums


def _tile(x: Tensor, backward: bool, precision: str) -> int:
    wide = x.dtype == torch.float32 and (backward or precision == "tf32x3")
    return 2048 if wide else 4096


def _dot_side(length: int) -> int:
    return max(16, int(triton.next_power_of_2(length)))


def _sums(x: Tensor) -> tuple[tl.dtype, str]:
    """Dtype and precision of the sums; without tf32, three tf32 products give float32's."""
    if x.dtype == torch.bfloat16:
        return tl.bfloat16, "tf32"
    return tl.float32, "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
