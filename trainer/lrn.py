"""Local response normalisation across channels, and the spatial kind of the 2012 program. Both are

    y = x s^-beta,    s = k + alpha (sum of x^2 over a window of `size`, cut at the edges)

with the window over neighbouring channels (section 3.3 of the paper), or over the rows and columns of the same map.
Such a window is its own transpose, so both have the gradient

    dx = g s^-beta - 2 alpha beta x (sum of g x s^(-beta - 1) over the same window)

Its arithmetic is cheap; going through memory is not. So a CPU works on pieces of the batch that stay in its cache, the
sum over a window is a few additions of a zero-padded copy to itself, shifted, and only x is kept for the backward.

`normalise` is the one entrance: a kernel for another kind of device goes behind it.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

_CPU_PIECE = 1 << 19  # elements worked on at a time: a handful of such buffers stay in a core's cache


class Norm(NamedTuple):
    """One normalisation's constants; `alpha` multiplies the bare sum of squares, undivided by any size."""

    over: Literal["channels", "maps"]
    size: int  # odd; of a side, over maps
    k: float
    alpha: float
    beta: float


def normalise(x: Tensor, norm: Norm, groups: int = 1) -> Tensor:
    """Normalise n x c x h x w, float32 or float64; contiguous or channels_last, and the result is the same.

    groups   equal groups of channels that do not see each other; without meaning over maps
    """
    n, c, h, w = x.shape
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        shape, dims = ((n, groups, c // groups, h * w), (2,)) if norm.over == "channels" else ((n, c, h, w), (2, 3))
        return _apply(x.contiguous().view(shape), dims, norm).view(n, c, h, w)
    shape, dims = ((n, h * w, groups, c // groups), (3,)) if norm.over == "channels" else ((n, h, w, c), (1, 2))
    return _apply(x.permute(0, 2, 3, 1).view(shape), dims, norm).view(n, h, w, c).permute(0, 3, 1, 2)


def _apply(x: Tensor, dims: tuple[int, ...], norm: Norm) -> Tensor:
    y: Tensor = _Normalise.apply(x, dims, norm)  # type: ignore[no-untyped-call]
    return y


class _Normalise(torch.autograd.Function):
    """Of a contiguous x with the window over `dims`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...], norm: Norm) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dims, ctx.norm = dims, norm
        y = torch.empty_like(x)
        window = _Window(x, dims, norm.size)
        for x_piece, y_piece in zip(window.pieces(x), window.pieces(y), strict=True):
            root = _inverse_root(x_piece, window, norm)
            torch.mul(x_piece, _power(root, norm.beta), out=y_piece)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        norm: Norm = ctx.norm
        dx = torch.empty_like(x)
        window = _Window(x, ctx.dims, norm.size)
        pieces = (window.pieces(tensor) for tensor in (x, g.contiguous(), dx))
        for x_piece, g_piece, dx_piece in zip(*pieces, strict=True):
            root = _inverse_root(x_piece, window, norm)
            torch.mul(g_piece, _power(root, norm.beta), out=dx_piece)  # g s^-beta
            weighted = root.mul_(root).mul_(dx_piece).mul_(x_piece)  # g x s^(-beta - 1)
            dx_piece.addcmul_(x_piece, window.sum(weighted), value=-2 * norm.alpha * norm.beta)
        return dx, None, None


def _inverse_root(x: Tensor, window: "_Window", norm: Norm) -> Tensor:
    """s^(-1/2)"""
    return window.sum(x, squared=True).mul(norm.alpha).add_(norm.k).rsqrt_()


def _power(inverse_root: Tensor, beta: float) -> Tensor:
    """s^-beta from s^(-1/2). For 3/4 that needs no logarithm, which would be most of the time on a CPU."""
    if beta == 0.75:
        return inverse_root.sqrt().mul_(inverse_root)
    return inverse_root.pow(2 * beta)


class _Window:
    """Sums over a window along `dims`, for pieces of a batch; owns their zero-padded copy.

    In the flat memory of the padded copy a step along a dim is a constant stride, and between one run along it and the
    next lie size - 1 zeros. So the copy can be added to itself, shifted, as one long vector: runs never mix.
    """

    def __init__(self, x: Tensor, dims: tuple[int, ...], size: int) -> None:
        each = max(1, _CPU_PIECE // max(1, x[0].numel())) if x.device.type == "cpu" else len(x)
        self._each = min(each, len(x))
        self._dims, self._size = dims, size
        shape = [length + (size - 1 if dim in dims else 0) for dim, length in enumerate(x.shape)]
        self._padded = x.new_zeros([self._each, *shape[1:]])

    def pieces(self, x: Tensor) -> list[Tensor]:
        return [x[first : first + self._each] for first in range(0, len(x), self._each)]

    def sum(self, x: Tensor, *, squared: bool = False) -> Tensor:
        """The sum of x, or of its square, over the window at each place of a piece x; a view in x's shape."""
        padded = self._padded[: len(x)]
        inside = self._narrowed(padded, self._size // 2, x)
        if squared:
            torch.mul(x, x, out=inside)
        else:
            inside.copy_(x)
        for dim in self._dims:
            padded = _sum_shifted(padded, self._size, padded.stride(dim))
        return self._narrowed(padded, 0, x)

    def _narrowed(self, padded: Tensor, start: int, x: Tensor) -> Tensor:
        for dim in self._dims:
            padded = padded.narrow(dim, start, x.shape[dim])
        return padded


def _sum_shifted(padded: Tensor, size: int, stride: int) -> Tensor:
    """Element t of the result, in flat memory, is the sum of `size` elements of `padded` from t on, `stride` apart.

    By doubling: x plus itself shifted by one is the sum of two, that plus itself shifted by two of four, and so on.
    The last (size - 1) stride elements have no such sum and are left undefined.
    """
    result = torch.empty_like(padded)
    flat = padded.view(-1)
    count = flat.numel() - (size - 1) * stride
    total, taken, block, width = flat[:count], 1, flat, 1  # `block` holds the sums of `width`; size is odd
    while taken < size:
        block = block[: -width * stride] + block[width * stride :]
        width *= 2
        if size & width:
            start = taken * stride
            total = torch.add(total, block[start : start + count], out=result.view(-1)[:count])
            taken += width
    return result
