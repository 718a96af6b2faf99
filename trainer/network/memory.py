"""Host memory: refuse a network before the OOM killer comes."""

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
    """Bytes available on the machine and within this process's cgroup."""
    free = int(_field(_MEMINFO, "MemAvailable:") or 0) * 1024
    limit = _CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        used = int((_CGROUP / "memory.current").read_text()) - int(
            _field(_CGROUP / "memory.stat", "inactive_file") or 0
        )
        free = min(free, int(text) - used)
    return free


def check_room(recipe: Recipe, devices: Devices, dtype: torch.dtype, *, training: bool) -> None:
    """Raise UsageError if the host has no room for weights, snapshot and, on a CPU, operands, velocities, gradients."""
    weights = sum(math.prod(shape) for shape in reference_shapes(recipe).values())
    bytes_per_weight = 3 * _FLOAT32 if training else _FLOAT32
    if devices[0].type == "cpu":
        operand = dtype.itemsize
        bytes_per_weight += operand if dtype != torch.float32 else 0
        bytes_per_weight += _FLOAT32 + operand if training else _FLOAT32
    needed, free = weights * bytes_per_weight, free_memory()
    if needed > free:
        raise UsageError(
            f"recipe {recipe.name} at width {recipe.width:g} has {weights:,} weights, which take {gib(needed)} or more,"
            f" and {gib(free)} of memory are free; try a smaller --width, or fewer channels and units"
        )


def gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _field(path: Path, name: str) -> str | None:
    lines = (line.split() for line in path.read_text().splitlines())
    return next((words[1] for words in lines if words[0] == name), None)
