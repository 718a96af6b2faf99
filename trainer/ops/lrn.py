"""Local response normalisation over channels (section 3.3 of the paper) or over a map (the 2012 program):

    y = x s^-beta,    s = k + alpha (sum of x^2 over a window of `size`, cut at the edges)
    dx = g s^-beta - 2 alpha beta x (sum of g x s^(-beta - 1) over the same window)

Memory traffic is the cost: a CPU works on pieces that stay in its cache; only x is kept for backward.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from trainer.kernels import kernels_for
from trainer.recipes.layers import Norm

_MAPS_OF_KERNEL = (5, 1.0)  # size and k: the original's
_CPU_PIECE = 1 << 19  # elements worked on at a time: a handful of such buffers stay in a core's cache


def normalise(x: Tensor, norm: Norm, groups: int = 1, *, bias: Tensor | None = None, rectified: bool = False) -> Tensor:
    """Normalise n x c x h x w of any floating dtype; the result is channels last.

    groups      of channels that do not see each other
    rectified   normalise max(x + bias, 0)
    """
    x_nhwc = x.permute(0, 2, 3, 1).contiguous()
    y: Tensor = _Normalise.apply(x_nhwc, bias, norm, groups, rectified)  # type: ignore[no-untyped-call]
    return y.permute(0, 3, 1, 2)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.how = norm, groups, rectified
        module = _kernels(x, norm)
        if module is not None:
            y: Tensor = module.normalise(x, bias, norm, groups, rectified)
            return y
        return _in_pieces(x, bias, norm, groups, rectified)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, bias = ctx.saved_tensors
        module = _kernels(x, ctx.how[0])
        backward = _in_pieces_backward if module is None else module.normalise_backward
        dx, dbias = backward(x, g.contiguous(), bias, *ctx.how)
        return dx, dbias, None, None, None


def _kernels(x: Tensor, norm: Norm) -> ModuleType | None:
    return kernels_for(x) if norm.over == "channels" or (norm.size, norm.k) == _MAPS_OF_KERNEL else None


def _in_pieces(x: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool) -> Tensor:
    y = torch.empty_like(x)
    window = _Window(x, norm, groups)
    for x_piece, y_piece in zip(window.pieces(x), window.pieces(y), strict=True):
        x_wide = _prepared(x_piece, bias, window, rectified)
        root = _inverse_root(x_wide, window, norm)
        torch.mul(x_wide, _power(root, norm.beta), out=y_piece)
    return y


def _in_pieces_backward(
    x: Tensor, g: Tensor, bias: Tensor | None, norm: Norm, groups: int, rectified: bool
) -> tuple[Tensor, Tensor | None]:
    dx = torch.empty_like(x)
    window = _Window(x, norm, groups)
    dbias = None if bias is None else torch.zeros_like(bias, dtype=window.dtype)
    for x_piece, g_piece, dx_piece in zip(*(window.pieces(tensor) for tensor in (x, g, dx)), strict=True):
        x_wide, g_wide = _prepared(x_piece, bias, window, rectified), g_piece.to(window.dtype)
        root = _inverse_root(x_wide, window, norm)
        u = _power(root, norm.beta).mul_(g_wide)  # g s^-beta
        weighted = root.mul_(root).mul_(u).mul_(x_wide)  # g x s^(-beta - 1)
        u.addcmul_(x_wide, window.sum(weighted), value=-2 * norm.alpha * norm.beta)
        if rectified:
            u.mul_(x_wide > 0)
        if dbias is not None:
            dbias += u.view(-1, len(dbias)).sum(dim=0)
        dx_piece.copy_(u)
    return dx, dbias


def _prepared(x: Tensor, bias: Tensor | None, window: "_Window", rectified: bool) -> Tensor:
    x = x.to(window.dtype)
    if bias is not None:
        x = x + bias.to(window.dtype).view(x.shape[2:] if window.grouped else (-1,))
    return x.clamp_min(0) if rectified else x


def _inverse_root(x: Tensor, window: "_Window", norm: Norm) -> Tensor:
    """s^(-1/2)"""
    return window.sum(x, squared=True).mul(norm.alpha).add_(norm.k).rsqrt_()


def _power(inverse_root: Tensor, beta: float) -> Tensor:
    """s^-beta; for beta = 3/4 without a slow logarithm."""
    if beta == 0.75:
        return inverse_root.sqrt().mul_(inverse_root)
    return inverse_root.pow(2 * beta)


class _Window:
    """Sums over a norm's window.

    With size - 1 zeros between runs along a dim, a piece's flat memory can be added to itself, shifted.
    """

    def __init__(self, x: Tensor, norm: Norm, groups: int) -> None:
        n, h, w, c = x.shape
        self.grouped = norm.over == "channels"
        self._shape = (h * w, groups, c // groups) if self.grouped else (h, w, c)
        self._dims, self._size = ((3,) if self.grouped else (1, 2)), norm.size
        self._piece_length = min(n, max(1, _CPU_PIECE // max(1, h * w * c)) if x.device.type == "cpu" else n)
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        padded = [length + (norm.size - 1 if dim in self._dims else 0) for dim, length in enumerate(self._shape, 1)]
        self._padded = x.new_zeros([self._piece_length, *padded], dtype=self.dtype)

    def pieces(self, x: Tensor) -> list[Tensor]:
        x = x.view(-1, *self._shape)
        return [x[first : first + self._piece_length] for first in range(0, len(x), self._piece_length)]

    def sum(self, x: Tensor, *, squared: bool = False) -> Tensor:
        """Sums of x, or of its square, in x's shape."""
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
    """Sum `size` elements, `stride` apart, from each on, by doubling; the last (size - 1) stride are undefined."""
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
