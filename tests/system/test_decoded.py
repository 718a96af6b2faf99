"""A loader that keeps decoded images: the same stream, in the memory that it was given."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from common.client.batch import Batch
from common.client.client import LoaderClient
from loader.workers.kept import IMAGE_BYTES
from tests.support.kept_memory import kept_bytes
from tests.support.processes import ANY_PORT, LoaderProcess, wait_for
from tests.support.reader import SPEC, fingerprint

HALF = 95  # of 150 + 40 records: 75 of train


def decoded(batches: Iterable[Batch], epoch: int) -> int:
    return sum(batch.timeline.decoded for batch in batches if batch.timeline is not None and batch.epoch == epoch)


def test_later_epochs_are_served_decoded_as_far_as_memory_was_given(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    crew = tmp_path / "workers"
    crew.write_text("1")
    options = ("--decoded-gib", str(HALF * IMAGE_BYTES / 2**30), "--workers-file", str(crew))
    with LoaderProcess(packed, tmp_path, 1, ANY_PORT, *options) as service:
        with LoaderClient(service.endpoint) as loader:
            batches = list(loader.stream(SPEC, 16).batches(range(2)))
            assert fingerprint(batches) == undisturbed
            assert [decoded(batches, epoch) for epoch in range(2)] == [150, 75]
            assert kept_bytes(service.pid) == pytest.approx(75 * IMAGE_BYTES, rel=0.02)
            (first,) = service.workers
            crew.write_text("3")
            service.signal(signal.SIGHUP)
            wait_for("more workers", lambda: len(service.workers) == 3)
            os.kill(first, signal.SIGKILL)
            batches = list(loader.stream(SPEC, 16).batches(range(2)))
        assert fingerprint(batches) == undisturbed
        assert [decoded(batches, epoch) for epoch in range(2)] == [75, 75]
        assert "keeps decoded images of 95 of 190 records, up to 0.0174 GiB" in service.log.read_text()


def test_memory_that_comes_and_goes_changes_no_pixel(packed: Path, tmp_path: Path, undisturbed: list[str]) -> None:
    short = tmp_path / "short"
    prefix = [sys.executable, "-m", "tests.support.pressed", str(short)]
    with LoaderProcess(packed, tmp_path, 2, ANY_PORT, prefix=prefix) as service:
        with LoaderClient(service.endpoint) as loader:
            stream = loader.stream(SPEC, 16)

            def reads_until(what: str, found: Callable[[], bool]) -> None:
                def found_after_reading() -> bool:
                    assert fingerprint(stream.batches(range(2))) == undisturbed
                    return found()

                wait_for(what, found_after_reading)

            for _ in range(2):
                reads_until("images to be kept", lambda: kept_bytes(service.pid) >= 150 * IMAGE_BYTES)
                short.touch()
                reads_until(
                    "memory to be given back", lambda: kept_bytes(service.pid) < 20 * IMAGE_BYTES
                )  # a huge page may stay
                short.unlink()
        assert "of decoded images are given back" in service.log.read_text()
