"""The open connections of the ROUTER: whose they are, how many, and how much of a message is held for each.

ZeroMQ limits each frame, but not how many frames make a message, and it holds them all until the last one is there. The
kernel knows how many bytes a connection has received; one that goes on and on without a message coming of it is cut.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_UNFINISHED_BYTES = 1 << 22  # more than all that a client that keeps to its credit can have under way
_BYTES_RECEIVED = 128  # the place of tcpi_bytes_received in struct tcp_info, linux/tcp.h
GONE = "somebody, gone before the address could be read,"


@dataclass(eq=False)
class Connection:
    """The other end's address, and how many bytes it had sent when a message of it was last delivered."""

    peer: str
    received: int = 0
    spoke: bool = False


class Connections:
    """By file descriptor. ZeroMQ's thread opens and closes them: what is told here has happened a moment ago."""

    def __init__(self) -> None:
        self._open: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def accepted(self, fd: int) -> Connection:
        self._open[fd] = connection = Connection(_peer_of(fd))
        return connection

    def ended(self, fd: int) -> str:
        """The address of the connection that was this."""
        return self._open.pop(fd, Connection(GONE)).peer

    def spoke(self, fd: int) -> None:
        """A message of it was delivered whole."""
        if fd in self._open:
            self._open[fd].spoke = True

    def cut(self, fd: int) -> None:
        """End the connection, if it is the one that was accepted: ZeroMQ sees it end and lets go of it."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as other:
            if fd in self._open and _name(other) == self._open[fd].peer:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what it sent is lost
                other.shutdown(socket.SHUT_RDWR)

    def cut_unfinished(self) -> Iterator[str]:
        """Cut those whose message has no end; yields their addresses."""
        for fd, connection in self._open.items():
            received = _bytes_received(fd)
            if connection.spoke:
                connection.spoke, connection.received = False, received
            elif received - connection.received > MOST_UNFINISHED_BYTES:
                self.cut(fd)
                yield connection.peer


def _bytes_received(fd: int) -> int:
    """What the connection has received since it began, in bytes; 0 where it is no longer there or not over TCP."""
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    except OSError:
        return 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        return int(struct.unpack_from("=Q", told, _BYTES_RECEIVED)[0])
    except (OSError, struct.error):
        return 0
    finally:
        connection.detach()  # it is ZeroMQ's to close


def _peer_of(fd: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fd)) as connection:
            return _name(connection)
    except OSError:  # it is closed already: ZeroMQ's thread may be quicker than we are
        return GONE


def _name(connection: socket.socket) -> str:
    """Address and port of the other end."""
    name = connection.getpeername()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "somebody on this host"
