"""Batches going up: through two buffers, each overwritten only when it has been read."""

import pytest
import torch
from torch import Tensor

from tests.race_detector import RaceDetector
from trainer.streams import Streams
from trainer.upload import BUFFERS, Upload

CPU = torch.device("cpu")


def uploaded(detector: RaceDetector, counts: list[int]) -> list[Tensor]:
    """What arrives of batches of these sizes, doubled on the current stream."""
    upload, arrived = Upload(CPU, detector), []

    def read(batch: Tensor) -> Tensor:
        with detector.on(detector.current(CPU)):
            return batch * 2

    with detector.watching():
        for number, count in enumerate(counts):
            host = torch.full((count, 1000), number, dtype=torch.uint8)
            arrived.append(upload(host, read)[0])
    return arrived


def test_batches_of_any_size_arrive_and_no_access_is_a_race() -> None:
    detector, counts = RaceDetector(), [3, 3, 2, 4, 1, 4]
    for number, (count, batch) in enumerate(zip(counts, uploaded(detector, counts), strict=True)):
        assert torch.equal(batch, torch.full((count, 1000), 2 * number, dtype=torch.uint8))
    assert detector.races == []


@pytest.mark.parametrize("kind", ["free", "arrived"])
def test_each_kind_of_wait_is_needed(kind: str) -> None:
    detector = RaceDetector(leave_out=kind)
    uploaded(detector, [3] * (BUFFERS + 1))
    assert detector.waits_left_out > 0
    assert detector.races


def test_a_cpu_reads_the_batch_where_it_lies() -> None:
    streams = Streams()
    host = torch.arange(6).reshape(2, 3)
    read, event = Upload(CPU, streams)(host, lambda batch: batch)
    assert read.data_ptr() == host.data_ptr()
    assert streams.passed(event)
