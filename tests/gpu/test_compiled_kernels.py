"""Triton's compiler, which needs no GPU, takes every kernel as AlexNet's halves launch it; its interpreter is laxer."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT

# Not imported here: what runs it in its interpreter has to say so before.
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.timeout(900),  # a minute, on a machine that does nothing else
]

GPUS = {"90": "tf32", "86": "bf16"}  # an H100 or H200; a GeForce 30, whose processors have the least shared memory
KERNELS = {"_channels", "_maps", "_rectify", "_pool", "_pool_backward", "_drop", "_update", "_pixels"}
SHARED_BYTES = 99 << 10  # of a GeForce 30 or 40 for one program
SPILLED_BYTES = 16  # of a thread, which cost nothing
KEEP_MANY_ROWS = {"_maps"}  # backward of a whole map's window, which does spill


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[dict[str, Any]]]:
    """Reports on each kernel, by capability; both compiled at once, a core each."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    programs = {
        capability: subprocess.Popen(
            [sys.executable, "-m", "tests.support.compiled_kernels", capability, precision],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for capability, precision in GPUS.items()
    }
    told = {capability: program.communicate()[0] for capability, program in programs.items()}
    assert all(program.returncode == 0 for program in programs.values())
    return {capability: [json.loads(line) for line in lines.splitlines()] for capability, lines in told.items()}


@pytest.mark.parametrize("capability", GPUS)
def test_every_kernel_compiles_into_the_shared_memory_there_is(
    compiled: dict[str, list[dict[str, Any]]], capability: str
) -> None:
    assert {kernel["name"] for kernel in compiled[capability]} == KERNELS
    assert max(kernel["shared_bytes"] for kernel in compiled[capability]) <= SHARED_BYTES


@pytest.mark.parametrize("capability", GPUS)
def test_what_the_paper_s_net_runs_stays_in_registers(
    compiled: dict[str, list[dict[str, Any]]], capability: str
) -> None:
    spilling = {kernel["name"] for kernel in compiled[capability] if kernel["spilled_bytes"] > SPILLED_BYTES}
    assert spilling <= KEEP_MANY_ROWS
