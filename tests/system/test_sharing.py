"""Several clients of one service at once, each a process: their own streams, fair shares, and no client in the way."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from tests.support.impatience import impatient
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess, wait_for
from tests.support.reader import ReaderProcess, fingerprint

FOREVER = 10**6
STREAMS: list[tuple[StreamSpec, int, Transport]] = [  # with batch size and transport
    (StreamSpec(seed=3, crop=64), 16, "slab"),
    (StreamSpec(seed=4, crop=64), 16, "frames"),
    (StreamSpec(seed=3, crop=96, pixels="float32"), 7, "slab"),
    (StreamSpec(split="val", view="full"), 40, "frames"),
]


def read_alone(endpoint: str, spec: StreamSpec, batch_size: int, epochs: int) -> list[str]:
    with LoaderClient(endpoint) as loader:
        return fingerprint(loader.stream(spec, batch_size).batches(range(epochs)))


@pytest.mark.parametrize("transport", ["slab", "frames"])
def test_clients_beside_a_stopped_and_an_idle_one_get_what_each_gets_alone_and_the_stopped_one_goes_on(
    service: LoaderProcess, transport: Transport
) -> None:
    epochs, spec = 3, StreamSpec(seed=9, crop=128)
    with ExitStack() as stack:
        alone = [read_alone(service.endpoint, spec, batch_size, epochs) for spec, batch_size, _ in STREAMS]
        stopped = stack.enter_context(ReaderProcess(service.endpoint, spec, 32, epochs, transport))
        idle = stack.enter_context(LoaderClient(service.endpoint, transport=transport))
        stopped.read_until(1)
        stopped.signal(signal.SIGSTOP)
        next(idle.stream(StreamSpec(seed=8, crop=256), 64).batches(range(FOREVER)))
        together = [
            stack.enter_context(ReaderProcess(service.endpoint, spec, batch_size, epochs, way))
            for spec, batch_size, way in STREAMS
        ]
        assert [reader.read_all() for reader in together] == alone
        stopped.signal(signal.SIGCONT)
        assert stopped.read_all() == read_alone(service.endpoint, spec, 32, epochs)


def test_clients_of_one_stream_share_its_decoding_whatever_becomes_of_a_third_and_of_a_worker(
    packed: Path, tmp_path: Path
) -> None:
    epochs, spec = 3, StreamSpec(seed=9, crop=128)
    transports: list[Transport] = ["slab", "frames"]
    with LoaderProcess(packed, tmp_path, 2, ANY_PORT, *KEEPS_NOTHING) as service, ExitStack() as stack:
        alone = read_alone(service.endpoint, spec, 16, epochs)
        third = stack.enter_context(ReaderProcess(service.endpoint, spec, 16, FOREVER, "slab"))
        third.read_until(1)
        clients = [stack.enter_context(LoaderClient(service.endpoint, transport=way)) for way in transports]
        passes = [client.stream(spec, 16).batches(range(epochs)) for client in clients]
        third.signal(signal.SIGSTOP)
        together, decoded = [], 0
        for number, batches in enumerate(zip(*passes, strict=True)):
            together.append(fingerprint(batches))
            decoded += sum(batch.timeline.decoded for batch in batches if batch.timeline is not None)
            if number == len(alone) // 3:
                os.kill(service.workers[0], signal.SIGKILL)
            if number == 2 * len(alone) // 3:
                third.signal(signal.SIGKILL)
    assert together == [[each, each] for each in alone]
    assert decoded < 1.5 * 150 * epochs, "nearly each image once, not twice"


def test_the_shared_memory_of_a_stream_can_be_cut_short_by_nobody(packed: Path, tmp_path: Path) -> None:
    """Else whoever has it mapped would die of SIGBUS: the service, its workers and the client."""
    with LoaderProcess(packed, tmp_path, 1) as service, LoaderClient(service.endpoint) as loader:
        batches = loader.stream(StreamSpec(crop=64), 16).batches([0])
        next(batches)
        descriptors = [fd for fd in Path(f"/proc/{service.pid}/fd").iterdir() if "alexnet-slab" in os.readlink(fd)]
        assert descriptors
        for fd in descriptors:
            for size in (0, 1 << 40):
                with pytest.raises(PermissionError):
                    os.truncate(fd, size)
        assert len(list(batches)) == 9


def test_a_client_stopped_until_the_service_has_given_it_up_goes_on_with_the_same_bytes(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, spec = 3, StreamSpec(seed=9, crop=128)
    impatient(monkeypatch, tmp_path)
    with LoaderProcess(packed, tmp_path) as service:

        def have_closed(streams: int) -> bool:
            return service.log.read_text().count(" closed") >= streams

        alone = read_alone(service.endpoint, spec, 8, epochs)
        wait_for("the stream that was read alone to be closed", lambda: have_closed(1))
        with ReaderProcess(service.endpoint, spec, 8, epochs, "slab") as stopped:
            stopped.read_until(1)
            stopped.signal(signal.SIGSTOP)
            wait_for("its stream to be closed", lambda: have_closed(2))
            with ReaderProcess(service.endpoint, StreamSpec(seed=1, crop=128), 8, 1) as other:
                other.read_all()  # fills slots meanwhile
            stopped.signal(signal.SIGCONT)
            assert stopped.read_all() == alone


def test_two_greedy_clients_get_the_same_number_of_pictures_though_one_asks_for_larger_batches(
    packed: Path, tmp_path: Path
) -> None:
    """The service decodes each image: one that need not is faster than its clients."""
    with LoaderProcess(packed, tmp_path, 2, ANY_PORT, *KEEPS_NOTHING) as service, ExitStack() as stack:
        small, large = (
            stack.enter_context(ReaderProcess(service.endpoint, StreamSpec(seed=seed, crop=32), batch_size, FOREVER))
            for seed, batch_size in enumerate((10, 75))
        )
        for reader in (small, large):
            reader.read_until(1)
        begun = small.pictures, large.pictures
        large.read_until(begun[1] + 6000)
        small.read_waiting()
        share = (small.pictures - begun[0]) / (large.pictures - begun[1])
        assert 0.5 < share < 2
