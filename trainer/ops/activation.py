"""A layer's bias, then ReLU (section 3.1 of the paper) or tanh."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.kernels import kernels_for


def activate(x: Tensor, activation: Literal["relu", "tanh"], bias: Tensor | None = None) -> Tensor:
    if activation == "relu":
        return relu(x, bias)
    x = with_bias(x, bias)
    return x.tanh_() if _is_free(x) else x.tanh()


def relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """max(x + bias, 0), one bias a channel of n x c x h x w; x may be overwritten."""
    if bias is not None and kernels_for(x) is not None:
        y: Tensor = _Rectify.apply(x.permute(0, 2, 3, 1).contiguous(), bias)  # type: ignore[no-untyped-call]
        return y.permute(0, 3, 1, 2)
    x = with_bias(x, bias)
    return F.relu(x, inplace=_is_free(x))


def with_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """x plus one number a channel; x may be overwritten."""
    if bias is None:
        return x
    by_channel = bias[:, None, None]
    return x.add_(by_channel) if _is_free(x) else x + by_channel


def _is_free(x: Tensor) -> bool:
    """True if autograd lets x be overwritten: neither convolutions nor poolings keep their output."""
    return not (x.is_leaf and x.requires_grad)


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = kernels_for(x).rectify(x, bias)  # type: ignore[union-attr]
        ctx.save_for_backward(y, bias)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        y, bias = ctx.saved_tensors
        dx, dbias = kernels_for(y).rectify_backward(y, g.contiguous(), bias)  # type: ignore[union-attr]
        return dx, dbias
