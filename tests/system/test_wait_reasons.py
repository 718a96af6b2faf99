"""The reason given for a reader's waits is the disturbance that caused them: with real loaders, workers and sockets."""

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
import zmq

from common.client import patience
from common.client.batch import Timeline
from common.client.client import LoaderClient
from common.client.stream_sessions import Loaders
from common.client.waits import WaitClock, Waits, waits_over
from common.spec import StreamSpec
from common.wire import messages
from common.wire.fields import StageTimes
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess, wait_for
from tests.support.proxy import Faults, Proxy

LARGE = StreamSpec(split="train", seed=3, crop=227)
SMALL = StreamSpec(split="train", seed=4, crop=8)
OUTAGE_S = 3.0


def most(waits: Waits) -> str:
    """The reason with the largest share."""
    by_reason = asdict(waits)
    return max(by_reason, key=by_reason.__getitem__)


def test_a_reader_that_computes_nothing_waits_for_the_decoder(packed: Path, tmp_path: Path) -> None:
    clock = WaitClock()
    decoding = LoaderProcess(packed, tmp_path, 1, ANY_PORT, *KEEPS_NOTHING)
    with decoding as service, LoaderClient(service.endpoint) as loader:
        for _ in clock.timed(loader.stream(LARGE, 50).batches(range(10))):
            pass
    assert most(clock.waits) == "decode"
    assert clock.waits.augment > 0
    assert clock.waits.read > 0


def test_a_reader_of_few_pictures_waits_while_the_worker_is_at_another_ones_many(packed: Path, tmp_path: Path) -> None:
    clock = WaitClock()
    decoding = LoaderProcess(packed, tmp_path, 1, ANY_PORT, *KEEPS_NOTHING)
    with decoding as service, LoaderClient(service.endpoint) as loader:
        greedy = loader.stream(LARGE, 150).batches(range(20))
        modest = loader.stream(SMALL, 1)
        for _ in range(10):
            next(greedy)  # and two more are asked for
            next(clock.timed(modest.batches([0])))
    assert most(clock.waits) == "workers_busy"


def test_a_reader_whose_messages_are_late_waits_for_the_wire(service: LoaderProcess) -> None:
    clock, slow = WaitClock(), Faults(lost=0, repeated=0, delayed=1, delay_s=0.2)
    with Proxy(service.endpoint, 0, slow) as proxy, LoaderClient(proxy.endpoint) as loader:
        for _ in clock.timed(loader.stream(SMALL, 16).batches(range(2))):
            pass
    assert most(clock.waits) == "wire"


class WhenWaiting(logging.Handler):
    """Calls `action` once, when the client says that it is still waiting, OUTAGE_S after it began to. Use in a `with`
    block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
        super().__init__()
        self._actions = [action]
        monkeypatch.setattr(patience, "SAID_FIRST_S", OUTAGE_S)
        monkeypatch.setattr(patience.log, "level", logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if self._actions and record.getMessage().startswith("waiting for the loader"):
            self._actions.pop()()

    def __enter__(self) -> "WhenWaiting":
        patience.log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        patience.log.removeHandler(self)


def test_a_reader_whose_only_service_is_killed_has_no_loader_until_there_is_another(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WaitClock()
    with ExitStack() as stack:
        service = stack.enter_context(LoaderProcess(packed, tmp_path, 1))
        loader = stack.enter_context(LoaderClient(service.endpoint))
        batches = clock.timed(loader.stream(SMALL, 8).batches(range(2)))
        next(batches)
        service.signal(signal.SIGKILL)
        service.process.wait()
        with WhenWaiting(
            monkeypatch, lambda: stack.enter_context(LoaderProcess(packed, tmp_path, 1, service.endpoint))
        ):
            assert len(list(batches)) == 2 * 19 - 1
    assert clock.waits.no_loader > 0.9 * OUTAGE_S * 1e6  # what still came is no outage


def test_a_reader_whose_only_service_is_stopped_has_no_loader_until_it_goes_on(
    service: LoaderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WaitClock()
    with LoaderClient(service.endpoint) as loader:
        batches = clock.timed(loader.stream(SMALL, 8).batches(range(2)))
        next(batches)
        service.signal(signal.SIGSTOP)
        try:
            with WhenWaiting(monkeypatch, lambda: service.signal(signal.SIGCONT)):
                assert len(list(batches)) == 2 * 19 - 1
        finally:
            service.signal(signal.SIGCONT)
    assert clock.waits.no_loader > 0.9 * OUTAGE_S * 1e6  # what still came is no outage


def test_a_reader_that_gives_nothing_back_waits_for_a_slot(service: LoaderProcess) -> None:
    with Hoarder(service.endpoint) as hoarder:
        slots = hoarder.slots
        for number in range(slots):
            hoarder.ask(number)
        for _ in range(slots):
            hoarder.answer()
        asked_s = time.monotonic()
        hoarder.ask(slots)
        while time.monotonic() < asked_s + 0.1:
            hoarder.ping()
        hoarder.ask(slots + 1, oldest=1)
        answer, arrived_s = hoarder.answer(), time.monotonic()
    assert answer.number == slots
    stages = StageTimes(*answer.stages)
    assert stages.for_slot > 90_000
    assert most(waits_over(asked_s, arrived_s, Timeline(asked_s, arrived_s, stages))) == "free_slot"


def test_a_reader_knows_how_many_workers_and_cores_serve_it_and_how_pixels_come(
    packed: Path, tmp_path: Path, service: LoaderProcess
) -> None:
    cores = len(os.sched_getaffinity(0))
    with LoaderProcess(packed, tmp_path, workers=1) as one:
        with LoaderClient(one.endpoint) as loader:
            assert loader.stream(SMALL, 8).loaders == Loaders(hosts=1, workers=1, cores=cores, by_socket=0)
        with LoaderClient([one.endpoint, service.endpoint], transport="frames") as loader:
            read = loader.stream(SMALL, 1)
            batches = read.batches(range(100))
            wait_for("both hosts", lambda: next(batches) and read.loaders.hosts == 2)
            assert read.loaders == Loaders(hosts=2, workers=3, cores=2 * cores, by_socket=2)


class Hoarder:
    """A client that keeps the slots it is given, unlike ours. Use in a `with` block."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._send(messages.Hello(0, "train", 0, "train", 8, 0.1, "uint8", "replace", True, False, 8, 1))
        welcome = self._receive()
        assert isinstance(welcome, messages.Welcome)
        self._stream, self.slots = welcome.stream, welcome.slots

    def ask(self, number: int, oldest: int = 0) -> None:
        self._send(messages.Ticket(number, self._stream, 0, number * 8, 8, True, oldest, b""))

    def answer(self) -> messages.BatchReply:
        while isinstance(answer := self._receive(), messages.Pong):  # one comes unasked now and then
            pass
        assert isinstance(answer, messages.BatchReply)
        return answer

    def ping(self) -> None:
        """There and back; nothing else comes meanwhile."""
        self._send(messages.Ping())
        assert isinstance(self._receive(), messages.Pong)

    def _send(self, message: messages.Message) -> None:
        self._socket.send(messages.encode(message))

    def _receive(self) -> messages.Message:
        assert self._socket.poll(60_000), "the service says nothing"
        header, *payloads = messages.split(memoryview(self._socket.recv()))
        return messages.decode(bytes(header), len(payloads))

    def __enter__(self) -> "Hoarder":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy()
