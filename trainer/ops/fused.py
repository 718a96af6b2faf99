"""Where the fused kernels are used: on a GPU, for the types they are made for, if triton is there.

Everything they do is also written in plain torch, beside where they are called: for a CPU, for float64, and as what
they are tested against.
"""

import functools
from types import ModuleType

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.bfloat16)
_MAX_ELEMENTS = 1 << 31  # kernels count in 32 bits, for division in 64 would be most of their time


def kernels(x: Tensor) -> ModuleType | None:
    """The module `trainer.kernels` if it can work on x, else None."""
    fits = x.dtype in _TYPES and x.numel() < _MAX_ELEMENTS
    return _module() if x.is_cuda and fits else None


@functools.cache
def _module() -> ModuleType | None:
    try:
        from trainer import kernels as module
    except ImportError:  # torch's own CUDA wheels bring triton; other builds may not
        return None
    return module
