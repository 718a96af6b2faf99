"""Host memory: refuse a network before the OOM killer comes."""

import math

import torch

from common.errors import UsageError
from common.host_memory import available_memory
from trainer.device.devices import Devices
from trainer.network.model import reference_shapes
from trainer.recipes.recipe import Recipe

_FLOAT32 = 4  # bytes


def check_room(recipe: Recipe, devices: Devices, dtype: torch.dtype, *, training: bool) -> None:
    """Raise UsageError if the host has no room for weights, snapshot and, on a CPU, operands, velocities, gradients."""
    weights = sum(math.prod(shape) for shape in reference_shapes(recipe).values())
    bytes_per_weight = 3 * _FLOAT32 if training else _FLOAT32
    if devices[0].type == "cpu":
        operand = dtype.itemsize
        bytes_per_weight += operand if dtype != torch.float32 else 0
        bytes_per_weight += _FLOAT32 + operand if training else _FLOAT32
    needed, free = weights * bytes_per_weight, available_memory()
    if needed > free:
        raise UsageError(
            f"recipe {recipe.name} at width {recipe.width:g} has {weights:,} weights, which take {gib(needed)} or more,"
            f" and {gib(free)} of memory are free; try a smaller --width, or fewer channels and units"
        )


def gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
