"""The guard against bytes that nobody asked for, on real connections."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from common.wire.flood import UNASKED_BYTES, FloodGuard, TcpConnection
from tests.support.processes import wait_for


class FloodingPeer:
    """A service that owes nothing; `looks` of the guard so far."""

    taken = owed = looks = 0
    flooded = False

    def __init__(self, connection: TcpConnection | None) -> None:
        self._connection = connection

    @property
    def connection(self) -> TcpConnection | None:
        self.looks += 1
        return self._connection


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_it_goes_on_looking_and_resets_a_flood_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as dialled_anew:
        with socket.create_connection(server.getsockname()) as gone:
            peer = FloodingPeer(TcpConnection.of(gone.fileno()))
        dialled_anew.connect(server.getsockname())
        server.accept()[0].close()
        service, _ = server.accept()
        with service:
            left = UNASKED_BYTES + 1
            while left > 0:
                service.sendall(bytes(65536))
                left -= len(dialled_anew.recv(65536, socket.MSG_WAITALL))
            with no_free_descriptor():
                guard = FloodGuard([peer])  # type: ignore[list-item]
                wait_for("two looks", lambda: peer.looks > 2)
            with closing(guard):
                wait_for("the reset", lambda: peer.flooded)
