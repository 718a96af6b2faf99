"""Devices, precision and repeatability."""

import os
from typing import Literal

import torch

from common.errors import UsageError

HALVES = 2

Devices = tuple[torch.device, torch.device]  # of half 0 and half 1
Precision = Literal["fp32", "tf32", "bf16"]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def devices_of_halves(gpus: str | None, cpu: bool) -> Devices:
    """The halves' devices, by default the first two GPUs. Raises UsageError if there is no such GPU."""
    if cpu and gpus is not None:
        raise UsageError("--cpu and --gpus exclude each other; give one of them")
    if cpu:
        return torch.device("cpu"), torch.device("cpu")
    indices = None if gpus is None else parse_indices(gpus)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UsageError("no GPU found; pass --cpu to compute on the CPU")
    first, second = indices or (0, min(1, count - 1))
    for index in (first, second):
        if index >= count:
            present = "the only one is 0" if count == 1 else f"there are 0 to {count - 1}"
            raise UsageError(f"--gpus {gpus}: there is no GPU {index}; {present}")
    return torch.device("cuda", first), torch.device("cuda", second)


def devices_of_rank(gpus_per_rank: int | None, local_rank: int, local_ranks: int) -> Devices:
    """The GPUs of one of several ranks of this host, which divide those visible. Raises UsageError if they are few."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    each = gpus_per_rank or (HALVES if count >= HALVES * local_ranks else 1)
    if count < each * local_ranks:
        raise UsageError(
            f"{local_ranks} ranks on this host need {each * local_ranks} GPUs, and {count} are visible; give fewer"
            " --ranks, or --cpu"
        )
    first = local_rank * each
    return torch.device("cuda", first), torch.device("cuda", first + each - 1)


def own_cores(local_ranks: int) -> int | None:
    """Threads of one of several ranks of this host; None if torch's own number holds."""
    if local_ranks == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, torch.get_num_threads() // local_ranks)


def parse_indices(gpus: str) -> tuple[int, int]:
    """GPU indices of the halves from "0,1", "0" or "0,0". Raises UsageError."""
    parts = [part.strip() for part in gpus.split(",")]
    if not 1 <= len(parts) <= HALVES or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--gpus {gpus!r} is not one or two GPU indices, such as 0,1 or 0 or 0,0")
    return int(parts[0]), int(parts[-1])


def describe(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H200)`."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def default_precision(device: torch.device) -> Precision:
    return "tf32" if device.type == "cuda" else "fp32"


def set_precision(precision: str) -> torch.dtype:
    """Configure torch and return the dtype of activations. Weights, updates and reductions stay in float32.

    tf32   tensor cores round factors to 10 bits; on a CPU the same as fp32
    bf16   activations, and copies of the weights, in bfloat16
    """
    exact = "ieee" if precision == "fp32" else "tf32"
    torch.backends.cuda.matmul.fp32_precision = exact
    torch.backends.cudnn.conv.fp32_precision = exact  # type: ignore[attr-defined]
    return DTYPES[precision]


def make_repeatable(threads: int | None) -> int:
    """Make torch repeatable to the bit; return its CPU threads, on which the bits depend."""
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may give other bits each time
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms loads the compiler too: a second
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.get_num_threads()
