"""What numbers the layers compute with. Weights, their update and every long sum are float32 all the same."""

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
