"""Mutated JPEGs do no harm; and harm would be seen."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support import jpeg_fuzz
from tests.support.jpeg_fuzz import Failed
from tests.support.processes import command_line, wait_for

CASES = 600
SEED = 0 if os.environ.get("CI") == "true" else time.time_ns() % 10**9


def test_mutated_records_neither_crash_nor_hang_and_have_one_outcome_each(packed: Path, tmp_path: Path) -> None:
    one, other = jpeg_fuzz.in_two_processes(packed, SEED, 0, CASES, tmp_path)
    assert one.cases == CASES
    assert 0 < one.decoded < one.packed < CASES
    assert min(one.late_mib - one.early_mib, other.late_mib - other.early_mib) < 8


def test_an_outcome_that_depends_on_the_pixels_before_would_be_seen(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_fuzz, "as_a_record", lambda _, old: np.full(3, old))
    with pytest.raises(Failed, match="case 7 of seed 5 had two outcomes"):
        jpeg_fuzz.fuzz(jpeg_fuzz.corpus_of(packed), 5, range(7, 9), lambda _: None)


@pytest.mark.parametrize(
    ("number", "hang_s", "told"),
    [(signal.SIGSEGV, 60.0, "ended the process: -11"), (signal.SIGSTOP, 1.0, r"case \d+ of seed 1 hangs")],
)
def test_a_crash_and_a_hang_would_be_seen(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, hang_s: float, told: str
) -> None:
    monkeypatch.setattr(jpeg_fuzz, "HANG_S", hang_s)
    case = tmp_path / "case"
    with ThreadPoolExecutor(1) as thread:
        fuzzing = thread.submit(jpeg_fuzz.apart, packed, 1, 0, 20_000, case)
        wait_for("the first case", case.exists)
        os.kill(working_with(case), number)
        with pytest.raises(Failed, match=told):
            fuzzing.result(timeout=60)


def working_with(case: Path) -> int:
    """The child, of whichever thread, that was given this file; a child of its own may bear its name for a moment."""
    ours = [pid for listed in Path("/proc/self/task").glob("*/children") for pid in listed.read_text().split()]
    (pid,) = (pid for pid in ours if str(case) in command_line(pid))
    return int(pid)
