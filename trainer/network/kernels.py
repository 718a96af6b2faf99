"""Triton kernels for what a GPU does between the matrix products: the one file that imports triton.

Each does in one pass over memory what torch does in several, computes in float32 whatever the tensors' type, and gives
the same bits every time: no atomics. Tensors are channels last; a row is one pixel's channels.

A sum over a window is a product with a banded matrix of ones, B[i, j] = |i - j| <= size // 2, so it is the tensor
cores' work and every load stays wide. In float32 that product is computed in float32 too, in bfloat16 in tf32.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.network.norm import Norm

_BLOCK = 1024  # elements a program works on, in what goes element by element


@triton.jit
def _powers(s, beta: tl.constexpr):
    """s^-beta and 1 / s; s is at least 1. For 3/4 without a logarithm."""
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
    """`turns` blocks of rows of one group's channels, forward or backward; and the sum of what it writes."""
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
    """Row h of the maps, zeros outside; and where it lies."""
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
    """A block of one picture's channels, row by row down the map; the sums of five rows are kept in registers.

    With row h loaded, s is known at row h - 2; backward, with s its summand t, and with that the result at row h - 4.
    So the loop runs past the end. It goes five rows at a time, so that nothing is handed on from one of its variables
    to the next and the next: Triton 3.6 loses that.
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
    """As `trainer.network.lrn.normalise`, of contiguous n x h x w x c."""
    return _normalise(x_nhwc, None, bias, norm, groups, rectified)[0]


def normalise_backward(
    x_nhwc: Tensor, g_nhwc: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool
) -> tuple[Tensor, Tensor | None]:
    """From the gradient by the result, contiguous, those by x and by the bias."""
    dx, sums = _normalise(x_nhwc, g_nhwc, bias, norm, groups, rectified)
    return dx, None if bias is None else sums.sum(dim=0)


def _normalise(
    x: Tensor, g: Tensor | None, bias: Tensor | None, norm: Norm, groups: int, rectified: bool
) -> tuple[Tensor, Tensor]:
    """What goes through one of the two kernels, and the sums over each program's share of it."""
    n, h, w, c = x.shape
    out, backward, biased = torch.empty_like(x), g is not None, bias is not None
    pointers = x, x if g is None else g, x if bias is None else bias, out
    dot_type, precision = _sums(x)
    if norm.over == "channels":
        block, turns = _block(c // groups), 4
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
            backward, dot_type, precision, _block(w), block_c, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out, sums


def _tile(x: Tensor, backward: bool, precision: str) -> int:
    """Elements that a program keeps in registers at a time."""
    wide = x.dtype == torch.float32 and (backward or precision == "tf32x3")
    return 2048 if wide else 4096


def _block(length: int) -> int:
    """Of a dot's side: a power of two, 16 at least."""
    return max(16, int(triton.next_power_of_2(length)))


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
    """max(x + bias, 0) of contiguous n x h x w x c."""
    return _rectified(x_nhwc, None, bias)[0]


def rectify_backward(y_nhwc: Tensor, g_nhwc: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """From the result y and the gradient g by it, contiguous, those by x and by the bias."""
    dx, sums = _rectified(y_nhwc, g_nhwc, bias)
    return dx, sums.sum(dim=0)


def _rectified(x: Tensor, g: Tensor | None, bias: Tensor) -> tuple[Tensor, Tensor]:
    out, channels = torch.empty_like(x), x.shape[3]
    rows, block_rows, turns = x.numel() // channels, 16, 8
    programs = triton.cdiv(rows, block_rows * turns)
    sums = torch.empty(0 if g is None else programs, channels, device=x.device)
    _rectify[(programs,)](
        x, x if g is None else g, bias, out, sums, rows, channels,
        g is not None, block_rows, _block(channels), turns, num_warps=4,
    )  # fmt: skip
    return out, sums


@triton.jit
def _pool(
    x_ptr, out_ptr, which_ptr, count, height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
    out_h: tl.constexpr, out_w: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The largest of 3 x 3, and which of the nine it was: the first, if several are as large, as torch has it."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    channel = at % channels
    pixel = at // channels
    image, top, left = pixel // (out_w * out_h), pixel // out_w % out_h * 2, pixel % out_w * 2
    best = tl.full((block,), float("-inf"), tl.float32)
    which = tl.zeros((block,), tl.int32)
    for i in tl.static_range(9):
        source = ((image * height + top + i // 3) * width + left + i % 3) * channels + channel
        x = tl.load(x_ptr + source, inside, 0.0).to(tl.float32)
        larger = (x > best) | (x != x)
        best = tl.where(larger, x, best)
        which = tl.where(larger, i, which)
    tl.store(out_ptr + at, best.to(out_ptr.dtype.element_ty), inside)
    tl.store(which_ptr + at, which.to(tl.uint8), inside)


@triton.jit
def _pool_backward(
    g_ptr, which_ptr, dx_ptr, count, height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
    out_h: tl.constexpr, out_w: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Each place collects from the windows, four at most, whose largest it was."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    channel = at % channels
    pixel = at // channels
    image, h, w = pixel // (width * height), pixel // width % height, pixel % width
    total = tl.zeros((block,), tl.float32)
    for i in tl.static_range(4):
        row, column = h // 2 - i // 2, w // 2 - i % 2
        place = (h - 2 * row) * 3 + w - 2 * column
        there = inside & (h - 2 * row < 3) & (w - 2 * column < 3)
        there = there & (row >= 0) & (row < out_h) & (column >= 0) & (column < out_w)
        source = ((image * out_h + row) * out_w + column) * channels + channel
        which = tl.load(which_ptr + source, there, 255).to(tl.int32)
        g = tl.load(g_ptr + source, there, 0.0).to(tl.float32)
        total += tl.where(which == place, g, 0.0)
    tl.store(dx_ptr + at, total.to(dx_ptr.dtype.element_ty), inside)


def max_pool(x_nhwc: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 3 x 3, two apart, of a contiguous x; and, uint8, which of the nine it was."""
    n, h, w, c = x_nhwc.shape
    out_h, out_w = (h - 3) // 2 + 1, (w - 3) // 2 + 1
    out = x_nhwc.new_empty(n, out_h, out_w, c)
    which = torch.empty_like(out, dtype=torch.uint8)
    count = out.numel()
    _pool[(triton.cdiv(count, _BLOCK),)](x_nhwc, out, which, count, h, w, c, out_h, out_w, _BLOCK, num_warps=4)
    return out, which


def max_pool_backward(g_nhwc: Tensor, which: Tensor, height: int, width: int) -> Tensor:
    """The gradient by x, n x height x width x c, from a contiguous one by the result."""
    n, out_h, out_w, c = g_nhwc.shape
    dx = g_nhwc.new_empty(n, height, width, c)
    count = dx.numel()
    _pool_backward[(triton.cdiv(count, _BLOCK),)](
        g_nhwc, which, dx, count, height, width, c, out_h, out_w, _BLOCK, num_warps=4
    )
    return dx


@triton.jit
def _drop(
    x_ptr, out_ptr, seed, step_ptr, layer, half, threshold, count, quarter, block: tl.constexpr
):  # fmt: skip
    """Each of Philox's four words decides one element, a quarter of the tensor apart."""
    counter = tl.program_id(0) * block + tl.arange(0, block)
    step = tl.load(step_ptr).to(tl.uint64)
    zero = tl.zeros((block,), tl.uint32)
    low, high = zero + (step & 0xFFFFFFFF).to(tl.uint32), zero + (step >> 32).to(tl.uint32)
    words = tl.philox(seed, counter.to(tl.uint32), low, high, zero + (2 * layer + half).to(tl.uint32))
    for word in tl.static_range(4):
        at = counter + word * quarter
        inside = (counter < quarter) & (at < count)
        x = tl.load(x_ptr + at, inside, 0.0)
        kept = words[word].to(tl.int64) >= threshold
        tl.store(out_ptr + at, tl.where(kept, x, 0.0).to(out_ptr.dtype.element_ty), inside)


def drop(x: Tensor, seed: int, step: Tensor, layer: int, half: int, threshold: int) -> Tensor:
    """What `trainer.network.dropout` keeps of a contiguous x, zeros elsewhere; `step` is int64, on x's device."""
    out, quarter = torch.empty_like(x), -(-x.numel() // 4)
    _drop[(triton.cdiv(quarter, 256),)](x, out, seed, step, layer, half, threshold, x.numel(), quarter, 256)
    return out


@triton.jit
def _update(
    weight_ptr, velocity_ptr, gradient_ptr, operand_ptr, rate_ptr, momentum, decay, count,
    copies: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    rate = tl.load(rate_ptr)
    w = tl.load(weight_ptr + at, inside)
    v = tl.load(velocity_ptr + at, inside)
    g = tl.load(gradient_ptr + at, inside).to(tl.float32)
    v = momentum * v - decay * rate * w - rate * g
    inside = inside & (rate + tl.zeros((block,), tl.float32) != 0.0)  # no rate: nothing moves
    tl.store(velocity_ptr + at, v, inside)
    tl.store(weight_ptr + at, w + v, inside)
    if copies:
        tl.store(operand_ptr + at, (w + v).to(operand_ptr.dtype.element_ty), inside)


def update(
    weight: Tensor, velocity: Tensor, gradient: Tensor, operand: Tensor, rate: Tensor, momentum: float, decay: float
) -> None:
    """The rule of `trainer.training.sgd`, in place; the operand becomes the weight, rounded to its type.

    weight, velocity   float32, dense and of the same strides; `rate` is one float32 number on their device
    """
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
    count, block = weight.numel(), 4 * _BLOCK
    copies = operand.data_ptr() != weight.data_ptr()
    _update[(triton.cdiv(count, block),)](
        weight, velocity, gradient, operand, rate, momentum, decay, count, copies, block, num_warps=8
    )


@triton.jit
def _pixels(
    image_ptr, mean_ptr, out_ptr, scale, top, left, height: tl.constexpr, width: tl.constexpr, crop: tl.constexpr,
    side: tl.constexpr, fold: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row of one picture: 3 x side numbers out, of which 3 x crop come from the picture.

    Folded, a run of 3 x fold numbers of the row lies together, and fold such rows make up a pixel's channels.
    """
    image, row = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, block)
    inside = (at < 3 * crop) & (row < crop)
    source = ((image * height + top + row) * width + left) * 3 + at
    x = tl.load(image_ptr + source, inside, 0).to(tl.float32) - tl.load(mean_ptr + row * 3 * crop + at, inside, 0.0)
    out = (image * side + row // fold * fold) * 3 * side
    out += (at // (3 * fold) * fold + row % fold) * (3 * fold) + at % (3 * fold)
    tl.store(out_ptr + out, tl.where(inside, x * scale, 0.0).to(out_ptr.dtype.element_ty), at < 3 * side)


def pixels(images_nhwc: Tensor, mean_rows: Tensor, out_nhwc: Tensor, scale: float) -> None:
    """Fill `out_nhwc`, n x side/fold x side/fold x (3 fold fold), with scale * (centre crop - mean), folded; zeros at
    its right and bottom.

    images_nhwc   n x h x w x 3, uint8 or float32, contiguous
    mean_rows     crop x (3 crop), float32
    """
    n, height, width, _ = images_nhwc.shape
    fold = math.isqrt(out_nhwc.shape[3] // 3)
    crop, side = len(mean_rows), fold * out_nhwc.shape[1]
    _pixels[(n, side)](
        images_nhwc, mean_rows, out_nhwc, scale, (height - crop) // 2, (width - crop) // 2,
        height, width, crop, side, fold, triton.next_power_of_2(3 * side), num_warps=4,
    )  # fmt: skip


def _sums(x: Tensor) -> tuple[tl.dtype, str]:
    """How the sums over windows are computed: the type of what is summed and, in float32, how exactly.

    Where torch may use tf32 so do they; else three tf32 products make what float32 would.
    """
    if x.dtype == torch.bfloat16:
        return tl.bfloat16, "tf32"
    return tl.float32, "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
