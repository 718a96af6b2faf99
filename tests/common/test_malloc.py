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
    assert float(found.stdout) < 2 * 1_281_167 * 4 / 1e6 + 3  # two orders are kept, see sampler.order


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


IN_A_THREAD = """
import resource, sys, threading
import numpy as np
from common.malloc import keep_in_one_arena
from tests.support.processes import memory_mib

def pages_to_fill(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = []
    for _ in range(blocks):
        kept.append(np.empty(19 << 20, np.uint8))
        kept[-1].fill(1)
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def fill():
    pages_to_fill(6)
    print(pages_to_fill(6))
    pages_to_fill(40)
    print(memory_mib("self"))

if not keep_in_one_arena():
    sys.exit("no glibc")
thread = threading.Thread(target=fill)
thread.start()
thread.join()
"""


def test_blocks_of_a_thread_are_used_again_too_and_most_of_many_given_back() -> None:
    found = subprocess.run([sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, check=False)
    if "no glibc" in found.stderr:
        pytest.skip("this C library has no such setting")
    pages, held_mib = found.stdout.split()
    assert int(pages) < 100
    assert float(held_mib) < 128 + 60  # Python and numpy beside it
