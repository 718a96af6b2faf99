"""Fused Triton kernels for the work between matrix products.

Each makes one pass over contiguous NHWC memory, computes in float32, and gives the same bits every time: no atomics. A
row is one pixel's channels. Each caller has the same in plain torch.
"""

import functools
from types import ModuleType

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)
_MAX_ELEMENTS = 1 << 31  # kernels count in 32 bits, for division in 64 would be most of their time


def kernels_for(x: Tensor) -> ModuleType | None:
    """The module `trainer.kernels.fused` if its kernels take x's device, dtype and size, else None."""
    fits = x.dtype in _DTYPES and x.numel() < _MAX_ELEMENTS
    return _fused() if x.is_cuda and fits else None


@functools.cache
def _fused() -> ModuleType | None:
    try:
        from trainer.kernels import fused
    except ImportError:  # torch's own CUDA wheels bring triton; other builds may not
        return None
    return fused
