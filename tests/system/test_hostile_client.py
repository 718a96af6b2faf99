"""Clients that break the protocol, beside an honest one of the same service: its batches are right, whatever comes."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from common.client.client import LoaderClient
from common.spec import StreamSpec
from common.wire import messages
from loader.service.resources import MOST_STREAMS
from tests.support.processes import LoaderProcess, memory_mib, wait_for
from tests.support.reader import Honest
from tests.support.zmtp import RawClient, frame_of

SPEC = StreamSpec(split="train", seed=3, crop=64)


@pytest.fixture(scope="module")
def service(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader")) as service:
        yield service


@pytest.fixture(scope="module")
def honest(service: LoaderProcess) -> Iterator[Honest]:
    with LoaderClient(service.endpoint, timeout_s=20, transport="frames") as loader:
        honest = Honest(loader.stream(SPEC, 16))
        honest.reads_on()  # an epoch and more
        yield honest


@contextlib.contextmanager
def dealer(service: LoaderProcess) -> "Iterator[zmq.Socket[bytes]]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.sndhwm = 0
        socket.connect(service.endpoint)
        yield socket


def hello(request: int = 0, batch_size: int = 16) -> messages.Hello:
    return messages.Hello(request, "train", 3, "train", 64, 0.1, "uint8", "replace", True, False, batch_size, 1)


def ask(socket: "zmq.Socket[bytes]", message: messages.Message) -> messages.Message:
    """Send, and give the next answer; a PONG comes now and then without being asked for."""
    socket.send(messages.encode(message))
    while isinstance(came := answer(socket), messages.Pong) and not isinstance(message, messages.Ping):
        pass
    return came


def answer(socket: "zmq.Socket[bytes]") -> messages.Message:
    assert socket.poll(60_000), "the service does not answer"
    header, *payloads = messages.split(memoryview(socket.recv()))
    return messages.decode(bytes(header), len(payloads))


def ticket(stream: bytes, number: int = 0, first: int = 0, count: int = 16, oldest: int = 0) -> messages.Ticket:
    return messages.Ticket(number, stream, 0, first, count, False, oldest, b"")


def test_messages_of_no_sense_are_answered_with_nothing(service: LoaderProcess, honest: Honest) -> None:
    senseless = [
        [b""],
        [b"\xff" * 50],
        [messages.encode(messages.Ping()), b"more"],
        [messages.encode(messages.Ping())] + [b""] * 1000,
        [messages.encode(messages.Bye(b"x" * 16))],
        [messages.encode(messages.Pong(b"12345678", 1, 1, 1))],
        [messages.encode(hello())[:-1]],
        [msgpack.packb([messages.VERSION, "TICKET", *[[]] * 9])],
        [b"\x91" * 30_000],  # lists within lists
    ]
    with dealer(service) as stranger:
        for frames in senseless:
            stranger.send_multipart(frames)
        assert isinstance(ask(stranger, messages.Ping()), messages.Pong)
    honest.reads_on()
    assert "a message from 127.0.0.1 was ignored" in service.log.read_text()


def test_a_stream_of_another_client_is_unknown_to_a_stranger(service: LoaderProcess, honest: Honest) -> None:
    with dealer(service) as stranger:
        refused = ask(stranger, ticket(honest.stream.id))
        assert isinstance(refused, messages.Fault)
        assert refused.code == messages.UNKNOWN_STREAM
        stranger.send(messages.encode(messages.Bye(honest.stream.id)))
        assert isinstance(ask(stranger, messages.Ping()), messages.Pong)
    honest.reads_on()


def test_tickets_repeated_out_of_order_and_beyond_the_credit_are_answered_or_refused(
    service: LoaderProcess, honest: Honest
) -> None:
    with dealer(service) as client:
        welcome = ask(client, hello())
        assert isinstance(welcome, messages.Welcome)
        beyond = ask(client, ticket(welcome.stream, first=welcome.records))
        assert isinstance(beyond, messages.Fault)
        assert "not a batch of this stream" in beyond.reason
        numbers = [7, 3, 7, 7, 0, *range(100, 400)]
        for number in numbers:
            client.send(messages.encode(ticket(welcome.stream, number, first=number % 100)))
        refused, unanswered = list[str](), set(numbers)
        while unanswered:
            of = answer(client)
            if isinstance(of, messages.BatchReply | messages.Fault):
                unanswered.discard(of.number)
            if isinstance(of, messages.Fault):
                refused.append(of.reason)
        assert refused
        assert all("more tickets than the credit" in reason for reason in refused)
    honest.reads_on()


def test_a_frame_that_is_too_long_ends_its_connection_before_memory_is_taken(
    service: LoaderProcess, honest: Honest
) -> None:
    before = memory_mib(service.process.pid)
    for claimed in (1 << 16, 1 << 40, (1 << 63) - 1):
        with RawClient(service.endpoint) as client:
            client.socket.sendall(frame_of(b"", claimed=claimed))
            assert client.ended()
    assert memory_mib(service.process.pid) < before + 5
    honest.reads_on()


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff", b"\xff" + bytes(8) + b"\x7f\x03", bytes(64), b"\xff" * 64]
)
def test_a_connection_that_shakes_no_hands_holds_up_nobody(service: LoaderProcess, honest: Honest, said: bytes) -> None:
    with RawClient(service.endpoint, greet=False) as client:
        client.socket.sendall(said)
        honest.reads_on()


def test_a_message_cut_off_in_the_middle_is_none(service: LoaderProcess, honest: Honest) -> None:
    with RawClient(service.endpoint) as client:
        client.send(messages.encode(hello()), more=True)
        client.socket.sendall(frame_of(b"half", claimed=1000))
    honest.reads_on()


@pytest.mark.parametrize("frame", [b"x" * 30_000, b""], ids=["long frames", "empty frames"])
def test_a_message_without_end_is_cut_before_it_fills_the_memory(
    service: LoaderProcess, honest: Honest, frame: bytes
) -> None:
    before = memory_mib(service.process.pid)
    flood = frame_of(frame, more=True) * (500_000_000 // len(frame_of(frame)))  # half a gigabyte, if it were let
    with RawClient(service.endpoint) as client, pytest.raises(ConnectionError):
        client.socket.sendall(flood)
    wait_for("the memory to be given back", lambda: memory_mib(service.process.pid) < before + 250)
    honest.reads_on()
    assert "its message had no end" in service.log.read_text()


def test_a_client_that_reads_no_answer_fills_only_its_own_queue(service: LoaderProcess, honest: Honest) -> None:
    with dealer(service) as deaf:
        deaf.rcvhwm = 1
        before = memory_mib(service.process.pid)
        for number in range(20_000):
            deaf.send(messages.encode(messages.Ping() if number % 2 else hello(request=number % 30)))
            if number % 1000 == 0:
                honest.reads_on(2)
        honest.reads_on()
        assert memory_mib(service.process.pid) < before + 100


def test_clients_that_ask_for_streams_again_and_again_and_read_nothing_are_sent_few_answers(
    service: LoaderProcess, honest: Honest
) -> None:
    """An answer carries a mean image, 0.8 MB: in all 1600 MB were asked for."""
    before = memory_mib(service.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            deaf = stack.enter_context(RawClient(service.endpoint))
            with contextlib.suppress(ConnectionError):
                for number in range(100):
                    deaf.send(messages.encode(hello(request=number % 8)))
            honest.reads_on(2)
        assert memory_mib(service.process.pid) < before + 120
    with LoaderClient(service.endpoint, timeout_s=20) as another:
        assert len(list(another.stream(SPEC, 16).batches([0]))) == 10


def test_ten_thousand_connections_one_after_the_other_change_nothing(service: LoaderProcess, honest: Honest) -> None:
    before = memory_mib(service.process.pid)
    for number in range(10_000):
        with RawClient(service.endpoint, greet=number % 50 == 0) as client:
            if number % 50 == 0:
                client.send(messages.encode(hello(request=number)))
        if number % 1000 == 0:
            honest.reads_on(2)
    honest.reads_on()
    assert memory_mib(service.process.pid) < before + 100


def test_clients_that_are_gone_make_room_for_others(service: LoaderProcess, honest: Honest) -> None:
    for round_number in range(3):
        with contextlib.ExitStack() as stack:
            for number in range(MOST_STREAMS // 2):
                client = stack.enter_context(RawClient(service.endpoint))
                client.send(messages.encode(hello(request=round_number * 1000 + number, batch_size=1)))
            honest.reads_on()
        with LoaderClient(service.endpoint, timeout_s=20) as another:
            wait_for("room for one more", lambda: another.stream(SPEC, 16))


def test_connections_without_a_stream_are_cut_beyond_a_number_and_the_others_served(
    packed: Path, tmp_path: Path
) -> None:
    few = ["prlimit", "--nofile=190:190"]
    with LoaderProcess(packed, tmp_path, 1, prefix=few) as service:
        with LoaderClient(service.endpoint, timeout_s=20) as loader, contextlib.ExitStack() as stack:
            honest = Honest(loader.stream(SPEC, 16))
            honest.reads_on()
            crowd = [stack.enter_context(RawClient(service.endpoint, greet=False)) for _ in range(60)]
            assert crowd[0].ended()
            honest.reads_on()
        assert re.search("was refused: there are too many without a stream", service.log.read_text())


def test_the_log_of_a_flood_is_short(service: LoaderProcess, honest: Honest) -> None:
    before, began = len(service.log.read_text()), time.monotonic()
    with dealer(service) as client:
        welcome = ask(client, hello())
        assert isinstance(welcome, messages.Welcome)
        for number in range(3000):
            client.send(b"nonsense")
            client.send(messages.encode(ticket(welcome.stream, number, first=welcome.records)))
            client.send(messages.encode(hello(request=1)))
            client.send(messages.encode(messages.Bye(StreamSpec(seed=3, crop=64).stream_id(welcome.digest, 1))))
        honest.reads_on()
        assert isinstance(answer(client), messages.Message)
    periods = 1 + (time.monotonic() - began) // 10.0  # of the rate limiter; a slow machine needs several
    assert len(service.log.read_text()) < before + 30_000 * periods
