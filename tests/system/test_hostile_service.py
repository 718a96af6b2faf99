"""A client against services that break the protocol, over real sockets: an error that names it, or the message ignored;
never wrong pixels, never a wait beyond its limit."""

import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.errors import LoaderRefused, LoaderTimeout
from common.spec import StreamSpec
from common.wire import messages
from tests.support.lying_service import answering
from tests.support.processes import PATIENCE_S, LoaderProcess, memory_mib, wait_for
from tests.support.storm import connect

ZMQ_HEARTBEAT_S = 2.5
SPEC = StreamSpec(split="train", seed=3, crop=64)


def test_a_service_of_another_version_is_refused_naming_both() -> None:
    with answering(b"\x92\x63\xa4PONG") as endpoint, LoaderClient(endpoint) as loader:
        both = f"{endpoint} refuses: the peer speaks protocol version 99, this program version {messages.VERSION}"
        with pytest.raises(LoaderRefused, match=both):
            loader.stream(SPEC, 16)


def test_a_client_of_another_version_is_told_both() -> None:
    told = messages.Fault(
        -1, b"", messages.VERSION_MISMATCH, "the peer speaks version 1, this program version 9", messages.NO_RECORD
    )
    with answering(messages.encode(told)) as endpoint, LoaderClient(endpoint) as loader:
        with pytest.raises(
            LoaderRefused, match=f"{endpoint} refuses: the peer speaks version 1, this program version 9"
        ):
            loader.stream(SPEC, 16)


COMPUTES = """
import sys
from common.client.client import LoaderClient
from common.errors import LoaderError
from common.spec import StreamSpec
with LoaderClient(sys.argv[1], transport="frames", timeout_s=3) as loader:
    stream = loader.stream(StreamSpec(seed=3, crop=64), 16)
    list(stream.batches([0]))
    batches = stream.batches(range(1, 10**6))
    sys.stdout.write("computes\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    try:
        for _ in range(5):
            next(batches)
        sys.stdout.write("LoaderClient goes on")
    except LoaderError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")
"""


@contextmanager
def flooding(service: str, flood: bytes, times: int = 3) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """Passes bytes between a client and `service`. Once the first event is set, so many connections end in a flood and
    a reset, each after its handshake: in one, ZeroMQ would not dial again. The second event then is set.
    """
    begin, done, ended = threading.Event(), threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def pass_on() -> None:
            floods = 0
            while not ended.is_set():
                with suppress(OSError), server.accept()[0] as front, connect(service, 30) as back:
                    front.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    welcomed = False
                    while not ended.is_set() and not (welcomed and begin.is_set() and floods < times):
                        welcomed |= b"READY" in passed(back, front)
                        passed(front, back)
                    front.settimeout(30)
                    floods += 1
                    if floods == times:
                        done.set()
                    front.sendall(flood)

        thread = threading.Thread(target=pass_on)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}", begin, done
        finally:
            ended.set()
            thread.join()


def passed(source: socket.socket, target: socket.socket) -> bytes:
    """Pass on what comes within 2 ms. Raises ConnectionResetError at the end."""
    if not select.select([source], [], [], 0.002)[0]:
        return b""
    if not (came := source.recv(1 << 16)):
        raise ConnectionResetError
    target.sendall(came)
    return came


@pytest.mark.parametrize("times", [1500, 40_000_000])
def test_a_service_that_floods_and_resets_does_not_end_its_client(packed: Path, tmp_path: Path, times: int) -> None:
    """While the client computes and reads nothing, as a trainer in a long step."""
    with ExitStack() as stack:
        service = stack.enter_context(LoaderProcess(packed, tmp_path, 1))
        endpoint, begin, done = stack.enter_context(flooding(service.endpoint, b"\x00\x01z" * times))
        client = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", COMPUTES, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert client.stdout is not None
        assert client.stdout.readline() == b"computes\n"
        before = memory_mib(client.pid)
        begin.set()
        most, began = before, time.monotonic()
        while not done.is_set() or time.monotonic() - began < ZMQ_HEARTBEAT_S:
            assert client.poll() is None
            assert time.monotonic() - began < PATIENCE_S, "three floods did not come"
            most = max(most, memory_mib(client.pid))
            time.sleep(0.02)
        said, _ = client.communicate(b"\n", timeout=60)
        assert client.returncode == 0
        assert said.startswith(b"Loader"), said
        assert most < before + 700


def test_a_connection_that_breaks_the_protocol_is_dialled_again(service: LoaderProcess) -> None:
    longest = b"\x02" + b"\xff" * 8  # a frame's head
    with flooding(service.endpoint, longest, times=1) as (endpoint, begin, done):
        with LoaderClient(endpoint, timeout_s=PATIENCE_S) as loader:
            batches = loader.stream(SPEC, 16).batches(range(10**6))
            next(batches)
            begin.set()
            wait_for("a frame without an end", done.is_set)
            assert len(list(islice(batches, 20))) == 20  # more than what may have come before


def test_a_service_that_cannot_read_what_it_is_asked_is_named_in_the_log_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = messages.Fault(-1, b"", messages.REFUSED, "HELLO: field crop is of the wrong type", messages.NO_RECORD)
    with answering(messages.encode(told)) as endpoint, LoaderClient(endpoint, timeout_s=0.3) as loader:
        with pytest.raises(LoaderTimeout, match=endpoint):
            loader.stream(SPEC, 16)
    said = [record.getMessage() for record in caplog.records if "could not read" in record.getMessage()]
    assert said == [f"{endpoint} could not read a message from this client: HELLO: field crop is of the wrong type"]
