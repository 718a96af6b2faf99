"""The update of `trainer/training/sgd.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096  # elements of a program


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
    """Update in place; the operand becomes the weight, rounded to its dtype.

    weight, velocity   float32, dense and of the same strides
    rate               one float32 number on their device
    """
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
    count = weight.numel()
    copies = operand.data_ptr() != weight.data_ptr()
    _update[(triton.cdiv(count, _BLOCK),)](
        weight, velocity, gradient, operand, rate, momentum, decay, count, copies, _BLOCK, num_warps=8
    )
