"""Connections that once ended a service or filled its memory, each alone, with raw sockets; an honest client beside."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from common.client.client import LoaderClient
from common.spec import StreamSpec
from common.wire import keys, messages
from common.wire.keys import ClientKeys
from loader.service.connections import IDLE_S, MOST_WITHOUT_STREAM
from tests.support.processes import LoaderProcess, memory_mib, wait_for
from tests.support.reader import Honest
from tests.support.storm import FOREIGN, PING, SHORT_PING, Attacker, Storm, connect, shake_hands
from tests.support.zmtp import frame_of

SPEC = StreamSpec(split="train", seed=3, crop=64)
HEARTBEAT_S = 2.5  # ZeroMQ's own, at which it noticed some of them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("connections") / "keys"
    keys.make(folder)
    return folder


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def service(
    request: pytest.FixtureRequest, packed: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoaderProcess]:
    options = ["--keys", str(folder)] if request.param == "with keys" else []
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader"), 1, "tcp://127.0.0.1:*", *options) as service:
        yield service
        assert service.process.poll() is None, service.log.read_text()


@pytest.fixture(scope="module")
def honest(service: LoaderProcess, folder: Path) -> Iterator[Honest]:
    encrypted = "encrypted" in service.log.read_text() and "unencrypted" not in service.log.read_text()
    used = folder if encrypted else None
    with LoaderClient(service.endpoint, timeout_s=30, transport="frames", keys=used) as loader:
        honest = Honest(loader.stream(SPEC, 16))
        honest.reads_on()
        yield honest


def reads_on_for(honest: Honest, seconds: float) -> None:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        honest.reads_on(2)


def test_the_words_of_other_protocols_and_old_versions_are_refused(service: LoaderProcess, honest: Honest) -> None:
    for said in FOREIGN.values():
        with connect(service.endpoint, 30) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(said)
            while connection.recv(1 << 12):
                pass
    honest.reads_on()
    assert "Traceback" not in service.log.read_text()


@pytest.fixture
def without_keys(service: LoaderProcess) -> None:
    if "unencrypted" not in service.log.read_text():
        pytest.skip("nobody without keys gets so far")


@pytest.mark.usefixtures("without_keys")
def test_a_second_peer_of_one_identity_that_floods_and_resets_ends_nothing(
    service: LoaderProcess, honest: Honest
) -> None:
    with shake_hands(service.endpoint, b"x", 30) as one:
        one.sendall(b"\x00\x01z")
        with shake_hands(service.endpoint, b"x", 30) as other:
            other.sendall(b"\x00\x01z" * 1500)
        reads_on_for(honest, HEARTBEAT_S)


@pytest.mark.usefixtures("without_keys")
def test_floods_that_end_in_pings_and_a_reset_end_nothing(service: LoaderProcess, honest: Honest) -> None:
    for number in range(150):
        with shake_hands(service.endpoint, timeout_s=30) as connection:
            connection.sendall(b"\x00\x01z" * 1200 + (PING if number % 2 else SHORT_PING) * 50)
            time.sleep(0.001 * (number % 4))
        if number % 50 == 0:
            honest.reads_on(2)
    honest.reads_on()


@pytest.mark.usefixtures("without_keys")
def test_identities_that_others_have_or_will_have_are_not_taken(service: LoaderProcess, honest: Honest) -> None:
    """One identity many times, and the numbers that an unseeded ROUTER gives: each is answered, and nothing is kept."""
    with contextlib.ExitStack() as stack:
        for number in range(40, 60):
            claimed = b"\x00" + (0x6B8B4567 + number).to_bytes(4, "big")
            stack.enter_context(shake_hands(service.endpoint, claimed, 30))
        first = stack.enter_context(shake_hands(service.endpoint, b"x", 30))
        before = memory_mib(service.pid)
        for _ in range(100):
            with shake_hands(service.endpoint, b"x", 30) as other:
                for connection in (other, first):
                    connection.sendall(frame_of(messages.encode(messages.Ping())))
                    while b"PONG" not in connection.recv(1 << 12):
                        pass
        honest.reads_on()
        assert memory_mib(service.pid) < before + 10


NUMBER = """
import sys, zmq
from common.wire import sockets
with sockets.new_context() as context, context.socket(zmq.REP) as asked, context.socket(zmq.DEALER) as client:
    asked.bind("inproc://zeromq.zap.01")
    end = sockets.router(context, "tcp://127.0.0.1:*")
    client.linger = 0
    client.connect(end.socket.getsockopt_string(zmq.LAST_ENDPOINT))
    client.send(b"z")
    asked.send_multipart([b"1.0", asked.recv_multipart()[1], b"200", b"OK", b"", b""])
    sys.stdout.write(end.socket.recv_multipart()[0].hex())
    end.close()
"""


def test_nobody_can_know_the_number_of_the_next_connection() -> None:
    """ZeroMQ's own would be the same in each process."""
    numbers = {subprocess.run([sys.executable, "-c", NUMBER], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(numbers) == 2


@pytest.mark.usefixtures("without_keys")
def test_floods_of_the_smallest_messages_are_cut_and_do_not_fill_the_memory(
    service: LoaderProcess, honest: Honest
) -> None:
    before = memory_mib(service.pid)
    for flood in (b"\x00\x01z" * 30_000_000, b"\x01\x00" * 40_000_000):
        with shake_hands(service.endpoint, timeout_s=60) as connection, pytest.raises(ConnectionError):
            connection.sendall(flood)
        honest.reads_on(2)
    assert memory_mib(service.pid) < before + 150
    line = r"127\.0\.0\.1:\d+ was refused: (it sent more than|its message had no end)"
    wait_for("the log to name one", lambda: re.search(line, service.log.read_text()))


@pytest.mark.usefixtures("without_keys")
def test_connections_without_a_stream_are_closed_after_a_while_and_are_not_too_many(
    service: LoaderProcess, honest: Honest
) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(shake_hands(service.endpoint, timeout_s=60)) for _ in range(MOST_WITHOUT_STREAM + 9)
        ]
        for connection in (crowd[0], crowd[-1]):  # the first makes room, the last is closed for its silence
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 12):
                    pass
        honest.reads_on()
    assert IDLE_S < 60


def test_an_admitted_client_that_floods_twice_under_one_identity_and_resets_ends_nothing(
    service: LoaderProcess, honest: Honest, folder: Path
) -> None:
    if "unencrypted" in service.log.read_text():
        pytest.skip("nobody is admitted")
    attacker = Attacker(service.endpoint, 1, ClientKeys.read(folder))
    before = memory_mib(service.pid)
    for _ in range(3):
        with contextlib.suppress(zmq.ZMQError):
            attacker.misuses_keys()
        honest.reads_on(2)
    reads_on_for(honest, HEARTBEAT_S)
    assert memory_mib(service.pid) < before + 150


def test_a_storm_of_all_of_them_changes_no_byte(service: LoaderProcess, honest: Honest, folder: Path) -> None:
    used = ClientKeys.read(folder) if "unencrypted" not in service.log.read_text() else None
    with Storm(service.endpoint, 8, seed=1, keys=used) as storm:
        reads_on_for(honest, 3.0)
    assert len(storm.made) >= 5
    assert memory_mib(service.pid) < 300
