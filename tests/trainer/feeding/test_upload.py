"""Batches going up: through two buffers, each overwritten only when it has been read."""

import pytest
import torch
from torch import Tensor

from tests.support.race_detector import RaceDetector
from trainer.device.streams import Streams
from trainer.feeding.upload import BUFFERS, Upload

CPU = torch.device("cpu")


def uploaded(detector: RaceDetector, hosts: list[Tensor]) -> list[Tensor]:
    """The batches as they arrive, doubled on the current stream."""
    upload, arrived = Upload(CPU, detector), []

    def read(batch: Tensor) -> Tensor:
        with detector.on(detector.current(CPU)):
            return batch * 2

    with detector.watching():
        for host in hosts:
            arrived.append(upload(host, read)[0])
    return arrived


def batches(*counts: int) -> list[Tensor]:
    return [torch.full((count, 10, 100), number, dtype=torch.uint8) for number, count in enumerate(counts)]


def test_batches_of_any_size_and_type_arrive_and_no_access_is_a_race() -> None:
    detector, hosts = RaceDetector(), [*batches(3, 3, 2, 4), *torch.randn(3, 5, 9, 100), *batches(1, 4)]
    for host, arrived in zip(hosts, uploaded(detector, hosts), strict=True):
        assert torch.equal(arrived, host * 2)
    assert detector.races == []


@pytest.mark.parametrize("kind", ["free", "arrived"])
def test_each_kind_of_wait_is_needed(kind: str) -> None:
    detector = RaceDetector(leave_out=kind)
    uploaded(detector, batches(*[3] * (BUFFERS + 1)))
    assert detector.waits_left_out > 0
    assert detector.races


def test_a_cpu_reads_the_batch_where_it_lies() -> None:
    streams = Streams()
    host = torch.arange(6).reshape(2, 3)
    read, event = Upload(CPU, streams)(host, lambda batch: batch)
    assert read.data_ptr() == host.data_ptr()
    assert streams.passed(event)
