"""Bound on the bytes a client holds while it computes and reads nothing.

A thread resets a TCP connection over which the kernel received more than was requested.
"""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Protocol

UNASKED_BYTES = 8 << 20  # beyond what is owed: WELCOME, PONG, duplicates
_LOOK_S = 0.05
_BYTES_RECEIVED = 128  # offset of tcpi_bytes_received in struct tcp_info, linux/tcp.h
_libc = ctypes.CDLL(None)


class TcpConnection(NamedTuple):
    """A TCP connection of this process; its descriptor may be reused."""

    fd: int
    ours: str
    theirs: str

    @classmethod
    def of(cls, fd: int) -> "TcpConnection | None":
        try:
            with _borrowed(fd) as found:
                names = found.getsockname(), found.getpeername()
        except OSError:
            return None
        return cls(fd, *map(str, names)) if all(isinstance(name, tuple) for name in names) else None


class Peer(Protocol):
    """A service.

    taken     bytes received, at least, when the client last read all of them
    flooded   set here if it sent more than that and what is `owed`
    """

    connection: TcpConnection | None
    taken: int
    flooded: bool

    @property
    def owed(self) -> int: ...


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    found = socket.socket(fileno=fd)
    try:
        yield found
    finally:
        found.detach()  # it is ZeroMQ's to close


def received(fd: int) -> int:
    """Bytes received in all; 0 if the connection is gone or not TCP."""
    try:
        with _borrowed(fd) as found:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0])
    except (OSError, struct.error):
        return 0


def reset(fd: int) -> bool:
    """Reset a TCP connection; False if it is none."""
    return bool(_libc.connect(fd, struct.pack("=H14x", socket.AF_UNSPEC), 16) == 0)


class FloodGuard:
    """Watches `peers`, a list that may change, until closed."""

    _known: ClassVar[set[str]] = set()  # our ends of the connections that clients of this process know

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers, self._closed = peers, threading.Event()
        self._dropped = False
        self._thread = threading.Thread(target=self._watch, name="alexnet-flood-guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def drop(self) -> None:
        """End the watch without waiting: for a client that is collected unclosed."""
        self._dropped = True

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_S) and not self._dropped:
            for peer in list(self._peers):
                connection = peer.connection
                if connection is None:
                    continue
                if TcpConnection.of(connection.fd) == connection:
                    if received(connection.fd) - peer.taken > UNASKED_BYTES + peer.owed:
                        peer.flooded = reset(connection.fd)
                else:
                    self._watch_next(peer, connection)

    @staticmethod
    def _watch_next(peer: Peer, gone: TcpConnection) -> None:
        """Reset a connection that ZeroMQ dialled anew and the client does not know."""
        try:
            descriptors = [*map(int, os.listdir("/proc/self/fd"))]
        except OSError:  # no descriptor is free: at the next look
            return
        for fd in descriptors:
            found = TcpConnection.of(fd) if received(fd) > UNASKED_BYTES else None
            if found is not None and found.theirs == gone.theirs and found.ours not in FloodGuard._known:
                peer.flooded = reset(fd)

    @classmethod
    def note(cls, new: TcpConnection | None, old: TcpConnection | None) -> None:
        if old is not None:
            cls._known.discard(old.ours)
        if new is not None:
            cls._known.add(new.ours)
