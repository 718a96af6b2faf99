"""The kernels' functions."""

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
