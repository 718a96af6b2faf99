"""Memory of a process after large blocks were freed."""

import subprocess
import sys

import pytest

ORDERS = """
import sys
from pathlib import Path
from common.malloc import give_back_large_blocks
from loader.workers import sampler

def held_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3

if sys.argv[1] == "given back" and not give_back_large_blocks():
    sys.exit("no glibc")
sampler.order(10, 0, 0)
before = held_mb()
for epoch in range(8):
    sampler.order(1_281_167, 0, epoch)
print(held_mb() - before)
"""


def test_epochs_of_imagenet_leave_their_orders_in_memory_and_no_more() -> None:
    found = subprocess.run([sys.executable, "-c", ORDERS, "given back"], capture_output=True, text=True, check=False)
    if "no glibc" in found.stderr:
        pytest.skip("this C library has no such setting")
    assert float(found.stdout) < 4 * 1_281_167 * 4 / 1e6 + 3  # four orders are kept, see sampler.order


BLOCKS = """
import resource, sys
import numpy as np
from common.malloc import keep_all_blocks, keep_large_blocks

def pages_to_fill(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(mib << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if not keep_all_blocks():
    sys.exit("no glibc")
keep_large_blocks()  # as a client does, later
pages_to_fill(600)
print(pages_to_fill(600))
"""


def test_a_block_of_hundreds_of_megabytes_is_used_again_and_not_had_from_the_system_anew() -> None:
    found = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=False)
    if "no glibc" in found.stderr:
        pytest.skip("this C library has no such setting")
    assert int(found.stdout) < 100
