"""The masks of `trainer/ops/dropout.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    """Mask a contiguous x; `step` is int64, on x's device."""
    out, quarter = torch.empty_like(x), -(-x.numel() // 4)
    _drop[(triton.cdiv(quarter, 256),)](x, out, seed, step, layer, half, threshold, x.numel(), quarter, 256)
    return out
