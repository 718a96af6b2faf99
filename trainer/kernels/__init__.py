"""Triton kernels for what a GPU does between the matrix products: the one folder that imports triton.

Each file is named after the one that calls it, where the same is written in plain torch. A kernel does in one pass over
memory what torch does in several, computes in float32 whatever the tensors' type, and gives the same bits every time:
no atomics. Tensors are channels last; a row is one pixel's channels.
"""

from trainer.kernels.fused_activation import rectify, rectify_backward
from trainer.kernels.fused_dropout import drop
from trainer.kernels.fused_lrn import normalise, normalise_backward
from trainer.kernels.fused_pixels import pixels
from trainer.kernels.fused_pooling import max_pool, max_pool_backward
from trainer.kernels.fused_sgd import update

__all__ = [
    "drop",
    "max_pool",
    "max_pool_backward",
    "normalise",
    "normalise_backward",
    "pixels",
    "rectify",
    "rectify_backward",
    "update",
]
