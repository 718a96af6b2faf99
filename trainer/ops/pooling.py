"""Overlapping max pooling (section 3.4 of the paper)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.kernels import kernels_for

_OF_KERNEL = (3, 2)


def max_pool(x_nchw: Tensor, size: int = 3, stride: int = 2) -> Tensor:
    """Max pooling to (h - size) // stride + 1 rows.

    torch's backward is not reproducible on a GPU: threads add as they arrive.
    """
    if kernels_for(x_nchw) is None or (size, stride) != _OF_KERNEL:
        return F.max_pool2d(x_nchw, kernel_size=size, stride=stride)
    y: Tensor = _MaxPool.apply(x_nchw.permute(0, 2, 3, 1).contiguous())  # type: ignore[no-untyped-call]
    return y.permute(0, 3, 1, 2)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y: Tensor
        y, which = kernels_for(x).max_pool(x)  # type: ignore[union-attr]
        ctx.save_for_backward(which)
        ctx.size = x.shape[1:3]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (which,) = ctx.saved_tensors
        g = g.contiguous()
        dx: Tensor = kernels_for(g).max_pool_backward(g, which, *ctx.size)  # type: ignore[union-attr]
        return dx
