"""The masks of `trainer/ops/dropout.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _drop(
    x_ptr, out_ptr, seed, place_ptr, layer, half, threshold, count, quarter, lanes, units,
    is_part: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Each of Philox's four words decides one element of the whole, a quarter of it apart."""
    lane = tl.program_id(0) * block + tl.arange(0, block)
    counter, before = lane, 0
    if is_part:
        before = tl.load(place_ptr + 1) * units
        counter = lane + (before % quarter).to(tl.int32)
        counter = tl.where(counter >= quarter, counter - quarter, counter)
    step = tl.load(place_ptr).to(tl.uint64)
    zero = tl.zeros((block,), tl.uint32)
    low, high = zero + (step & 0xFFFFFFFF).to(tl.uint32), zero + (step >> 32).to(tl.uint32)
    words = tl.philox(seed, counter.to(tl.uint32), low, high, zero + (2 * layer + half).to(tl.uint32))
    for word in tl.static_range(4):
        at = counter + word * quarter - before
        inside = (lane < lanes) & (at >= 0) & (at < count)
        x = tl.load(x_ptr + at, inside, 0.0)
        kept = words[word].to(tl.int64) >= threshold
        tl.store(out_ptr + at, tl.where(kept, x, 0.0).to(out_ptr.dtype.element_ty), inside)


def drop(
    x: Tensor, seed: int, place: Tensor, layer: int, half: int, threshold: int, whole: int | None = None
) -> Tensor:
    """Mask a contiguous x; `place` and `whole` as in `Masking`."""
    out, count, units = torch.empty_like(x), x.numel(), x.numel() // len(x)
    quarter = -(-units * (whole or len(x)) // 4)
    lanes = min(quarter, count)
    _drop[(triton.cdiv(lanes, 256),)](
        x, out, seed, place, layer, half, threshold, count, quarter, lanes, units, whole is not None, 256
    )
    return out
