"""What numbers the layers compute with. Weights, their update and every long sum are float32 all the same."""

import os
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def default_precision(device: torch.device) -> Precision:
    """float32 as tensor cores take it, where there are some."""
    return "tf32" if device.type == "cuda" else "fp32"


def set_up(precision: str) -> torch.dtype:
    """Make torch compute so; gives the type of activations.

    fp32   float32 throughout
    tf32   float32 in memory; tensor cores round the factors of a product to 10 bits. A CPU has none: as fp32
    bf16   activations, and copies of the weights, in bfloat16
    """
    exact = "ieee" if precision == "fp32" else "tf32"
    torch.backends.cuda.matmul.fp32_precision = exact
    torch.backends.cudnn.conv.fp32_precision = exact  # type: ignore[attr-defined]
    return DTYPES[precision]


def make_repeatable(threads: int | None) -> int:
    """Make torch compute the same bits each time; gives the number of its threads on the CPU, which is part of that."""
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may give other bits each time
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms loads the compiler too: a second
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.get_num_threads()
