"""Fused Triton kernels for the work between matrix products, and their selection: the only folder that imports triton.

A kernel makes one pass over memory, computes in float32 whatever the tensors' dtype, and gives the same bits every
time: no atomics. Tensors are channels last; a row is one pixel's channels. Each caller has the same in plain torch, for
a CPU, for float64 and as the tests' reference.
"""

import functools
from types import ModuleType

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)
_MAX_ELEMENTS = 1 << 31  # kernels count in 32 bits, for division in 64 would be most of their time


def kernels_for(x: Tensor) -> ModuleType | None:
    """The module `trainer.kernels.fused` if x is on a GPU and of a dtype and size that its kernels take, else None."""
    fits = x.dtype in _DTYPES and x.numel() < _MAX_ELEMENTS
    return _fused() if x.is_cuda and fits else None


@functools.cache
def _fused() -> ModuleType | None:
    try:
        from trainer.kernels import fused
    except ImportError:  # torch's own CUDA wheels bring triton; other builds may not
        return None
    return fused
