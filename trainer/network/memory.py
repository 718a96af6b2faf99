"""Memory of the host: how much is free, and how much a network's weights take, known before any of it is taken."""

import math
from pathlib import Path

import torch

from common.errors import UsageError
from trainer.device.devices import Devices
from trainer.network.model import reference_shapes
from trainer.recipes.recipe import Recipe

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_FLOAT32 = 4  # bytes


def free_memory() -> int:
    """Bytes that this process can still have without taking them from another, of the machine and of its cgroup."""
    free = int(_field(_MEMINFO, "MemAvailable:") or 0) * 1024
    limit = _CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        used = int((_CGROUP / "memory.current").read_text()) - int(
            _field(_CGROUP / "memory.stat", "inactive_file") or 0
        )
        free = min(free, int(text) - used)
    return free


def check_room(recipe: Recipe, devices: Devices, dtype: torch.dtype, *, training: bool) -> None:
    """Raises UsageError if the host has no room for the recipe's weights: without this the kernel would end somebody.

    Counted is what surely is there at once: the initial weights; on a CPU the weights, their operands in `dtype` and,
    for training, velocities and gradients. A GPU whose memory is full says so by itself.
    """
    weights = sum(math.prod(shape) for shape in reference_shapes(recipe).values())
    each = _FLOAT32
    if devices[0].type == "cpu":
        operand = dtype.itemsize
        each += operand if dtype != torch.float32 else 0
        each += _FLOAT32 + operand if training else _FLOAT32
    needed, free = weights * each, free_memory()
    if needed > free:
        raise UsageError(
            f"recipe {recipe.name} at width {recipe.width:g} has {weights:,} weights, which take {gib(needed)} or more,"
            f" and {gib(free)} of memory are free; try a smaller --width, or fewer channels and units"
        )


def gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _field(path: Path, name: str) -> str | None:
    """The first word behind `name` in a file of a field a line."""
    lines = (line.split() for line in path.read_text().splitlines())
    return next((words[1] for words in lines if words[0] == name), None)
