"""Program that compiles the fused kernels for an NVIDIA GPU, launched as AlexNet's halves do.

    python -m tests.support.compiled_kernels CAPABILITY TYPE

Triton needs no GPU for that; CAPABILITY is 80, 86 or 90. Prints a line of JSON for each kernel: name, shared memory in
bytes, bytes a thread spills from its registers.
"""

import contextlib
import io
import json
import os
import re
import sys
from typing import Any

os.environ["TRITON_ALWAYS_COMPILE"] = "1"
os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

from trainer.device.devices import set_precision
from trainer.kernels import fused as kernels
from trainer.network.model import norm_of
from trainer.recipes.named import PAPER, SOURCE

BATCH, META = 128, torch.device("meta")


class NamedGpu:
    """The driver, as far as Triton asks it before compiling."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead(launch: Any) -> Any:
    """Compile in place of a launch, and print the line."""

    def compiled(self: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
        typed = [MockTensor(each.dtype, list(each.shape)) if isinstance(each, torch.Tensor) else each for each in args]
        with contextlib.redirect_stdout(io.StringIO()) as log:
            kernel = launch(self, *typed, grid=grid, warmup=True, **options)
        spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill stores", log.getvalue()))
        told = {"name": kernel.name, "shared_bytes": kernel.metadata.shared, "spilled_bytes": spilled}
        sys.stdout.write(json.dumps(told) + "\n")

    return compiled


def launch_all(dtype: torch.dtype) -> None:
    def of(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    for side, channels in ((55, 48), (27, 128)):  # conv1 and conv2 of a half
        x, bias = of(BATCH, side, side, channels), of(channels)
        kernels.normalise(x, bias, norm_of("lrn", PAPER), 1, True)
        kernels.normalise_backward(x, x, bias, norm_of("lrn", PAPER), 1, True)
        _, which = kernels.max_pool(x)
        kernels.max_pool_backward(of(*which.shape), which, side, side)
    kernels.normalise(x, None, norm_of("spatial", SOURCE), 1, False)
    kernels.normalise_backward(x, x, None, norm_of("spatial", SOURCE), 1, False)
    x, bias = of(BATCH, 13, 13, 192), of(192)
    kernels.rectify_backward(kernels.rectify(x, bias), x, bias)
    place = of(2, dtype=torch.int64)
    kernels.drop(of(BATCH, 2048), 1, place, 5, 1, 1 << 31)
    kernels.drop(of(BATCH, 2048), 1, place, 5, 1, 1 << 31, 4 * BATCH)
    weight = of(2048, 4608, dtype=torch.float32)
    operand = weight if dtype == torch.float32 else of(2048, 4608)
    kernels.update(weight, weight, of(2048, 4608), operand, of(dtype=torch.float32), 0.9, 0.0005)
    mean_rows = of(227, 3 * 227, dtype=torch.float32)
    kernels.pixels(of(BATCH, 227, 227, 3, dtype=torch.uint8), mean_rows, of(BATCH, 57, 57, 48), 1.0)


if __name__ == "__main__":
    driver.set_active(NamedGpu(int(sys.argv[1])))
    JITFunction.run = compile_instead(JITFunction.run)
    launch_all(set_precision(sys.argv[2]))
