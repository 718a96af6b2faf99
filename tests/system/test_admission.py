"""Admission while too much memory is held for clients: it waits, and what waits costs next to nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import zmq

from common.malloc import bytes_in_use
from common.wire import sockets
from loader.service import access as access_module
from loader.service.access import Access
from tests.support.processes import wait_for
from tests.support.storm import GREETING, connect, ready, shake_hands

MORE_BYTES = 1 << 30  # than are held for clients in truth
GONE = 300  # connections that end while they wait
LOST_BYTES = 2000  # for each of them, at the most; a question that ZeroMQ keeps takes three times as much


class Door:
    """A listening ROUTER and its access control, which believes that `more_bytes` more are held than there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.more_bytes = 0
        monkeypatch.setattr(access_module, "bytes_in_use", lambda: bytes_in_use() + self.more_bytes)
        self._context = sockets.new_context()
        self._end = sockets.router(self._context, "tcp://127.0.0.1:*")
        self.endpoint = self._end.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._access = Access(self._context, self._end, None, 4 * GONE)

    def hear(self) -> bool:
        """Let it do its work for a moment."""
        questions, monitor = self._access.sockets
        questions.poll(1)
        monitor.poll(1)
        self._access.hear({questions, monitor}, frozenset, emptied=False)
        return True

    def asked(self) -> bool:
        """Hear, if there is a question."""
        return self._access.sockets[0].poll(1) != 0 and self.hear()

    def close(self) -> None:
        self._access.close()
        self._end.close()
        self._context.term()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with closing(Door(monkeypatch)) as door:
        yield door


def come_and_go(door: Door, times: int) -> None:
    for _ in range(times):
        with connect(door.endpoint) as connection:
            connection.sendall(GREETING + ready())
            wait_for("its question", door.asked)


def test_a_connection_that_waits_is_let_in_when_there_is_room_and_one_that_left_costs_nothing(door: Door) -> None:
    door.more_bytes = MORE_BYTES
    come_and_go(door, 50)  # buffers have their size
    before = bytes_in_use()
    come_and_go(door, GONE)
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(shake_hands, door.endpoint, timeout_s=30.0)
        wait_for("its question", door.asked)
        for _ in range(20):
            door.hear()
        assert not waiting.done()
        assert bytes_in_use() - before < GONE * LOST_BYTES
        door.more_bytes = 0
        wait_for("it to be let in", lambda: door.hear() and waiting.done())
        waiting.result().close()
