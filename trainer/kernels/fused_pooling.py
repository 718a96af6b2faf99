"""Max pooling, 3 x 3 and two apart."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # elements of a program


@triton.jit
def _pool(
    x_ptr, out_ptr, which_ptr, count, height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
    out_h: tl.constexpr, out_w: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The largest of 3 x 3, and its index in them: the first of equals, as in torch."""
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
    """Each element collects from the windows, at most four, whose largest it was."""
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
    """The largest of each 3 x 3, and its index in them, uint8."""
    n, h, w, c = x_nhwc.shape
    out_h, out_w = (h - 3) // 2 + 1, (w - 3) // 2 + 1
    out = x_nhwc.new_empty(n, out_h, out_w, c)
    which = torch.empty_like(out, dtype=torch.uint8)
    count = out.numel()
    _pool[(triton.cdiv(count, _BLOCK),)](x_nhwc, out, which, count, h, w, c, out_h, out_w, _BLOCK, num_warps=4)
    return out, which


def max_pool_backward(g_nhwc: Tensor, which: Tensor, height: int, width: int) -> Tensor:
    n, out_h, out_w, c = g_nhwc.shape
    dx = g_nhwc.new_empty(n, height, width, c)
    count = dx.numel()
    _pool_backward[(triton.cdiv(count, _BLOCK),)](
        g_nhwc, which, dx, count, height, width, c, out_h, out_w, _BLOCK, num_warps=4
    )
    return dx
