"""Open connections of the ROUTER, and the memory held for each.

ZeroMQ bounds a frame, but neither the frames of a message nor, as `common/wire/sockets.py` sets it up, the messages
queued. So bytes are counted: those the kernel received, less those that came out as messages. A connection that is
further ahead than an honest client can be is cut; if all together hold too much, those furthest ahead are. For Unix
sockets, which only the service's own user can open, the kernel does not count.
"""

import contextlib
import os
import socket
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from common.wire.flood import received, reset

MOST_HELD_BYTES = 1 << 19  # on the wire; more than a client within its credit can have in flight
MOST_HELD_BYTES_AT_FIRST = 1 << 16  # of a client without a stream
MOST_WITHOUT_STREAM = 256  # connections, and at most half of all
IDLE_S = 10.0  # after which a silent connection without a stream is closed
_SMALL_BYTES = 1 << 12  # never cut to make room
_IDLE_LOOK_S = 0.5  # between two looks at a connection that received nothing
_WRAP = 1 << 32  # of the ROUTER's numbers
_MEMORY_FOR_WIRE = 32  # most bytes that ZeroMQ holds for a byte on the wire
GONE = "somebody, gone before the address could be read,"
NO_END, TOO_MUCH = "its message had no end", "it sent more than a client that keeps to its credit"
NO_ROOM, SILENT = "there are too many without a stream", ""


@dataclass(eq=False, slots=True)
class Connection:
    """One connection.

    identity   number that the ROUTER gave it, known from its first message on
    base       bytes it had received when none of them was held
    read       bytes that came out as messages since then
    spoke      True if a message came out since the last look
    """

    peer: str
    number: int
    identity: bytes = b""
    base: int = 0
    read: int = 0
    received: int = 0
    spoke: bool = False
    heard: float = field(default_factory=time.monotonic)
    looked: float = 0.0

    @property
    def held(self) -> int:
        return max(0, self.received - self.base - self.read)


class Connections:
    """Connections by file descriptor. ZeroMQ's thread opens and closes them, a moment before it is known here."""

    def __init__(self, most: int) -> None:
        self._most_without_stream = min(MOST_WITHOUT_STREAM, most // 2)
        self._open: dict[int, Connection] = {}
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._open)

    def accepted(self, fd: int) -> Connection:
        self._accepted += 1
        self._open[fd] = connection = Connection(_peer_of(fd), self._accepted)
        return connection

    def ended(self, fd: int) -> str:
        connection = self._open.pop(fd, None)
        return connection.peer if connection is not None else GONE

    def delivered(self, fd: int, identity: bytes, size: int) -> None:
        """Count a message of `size` bytes, which may be of an earlier connection with this descriptor."""
        connection = self._open.get(fd)
        if connection is None:
            return
        if connection.identity != identity:
            if connection.identity and _precedes(identity, connection.identity):
                return
            connection.identity, connection.read = identity, 0
        connection.read += size
        connection.spoke, connection.heard = True, time.monotonic()

    def cut(self, fd: int) -> None:
        """End the connection, if it is still the one that was accepted."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as other:
            if fd not in self._open or _name(other) != self._open[fd].peer:
                return
            if other.family == socket.AF_UNIX or not reset(fd):
                other.shutdown(socket.SHUT_RDWR)

    def cut_client(self, identity: bytes) -> Iterator[str]:
        for fd, connection in list(self._open.items()):
            if connection.identity == identity:
                self.cut(fd)
                yield connection.peer

    def look(self, streaming: Container[bytes], emptied: bool, *, at_all: bool = False) -> Iterator[tuple[str, str]]:
        """Cut connections that break a limit; yields (address, reason), SILENT for one that is merely idle.

        `emptied` is True if the inbox was empty at a moment since the last look.
        """
        now, without_stream = time.monotonic(), list[tuple[float, int]]()
        for fd, connection in list(self._open.items()):
            streams = connection.identity in streaming
            if not streams:
                without_stream.append((connection.heard, fd))
            if reason := self._look_at(fd, connection, streams, emptied, at_all, now):
                yield self._cut(fd, reason)
            elif not streams and now - connection.heard > IDLE_S:
                yield self._cut(fd, SILENT)
            elif self._accepted - connection.number > _WRAP // 2:
                yield self._cut(fd, SILENT)  # before another gets its number
        for _, fd in sorted(without_stream)[: max(0, len(without_stream) - self._most_without_stream)]:
            yield self._cut(fd, NO_ROOM)

    def make_room(self, excess_bytes: int, streaming: Container[bytes], emptied: bool) -> Iterator[tuple[str, str]]:
        """Cut those that hold most, those without a stream first, to free so many bytes of memory."""
        least = _SMALL_BYTES if emptied else 4 * _SMALL_BYTES  # else messages of lost connections are still being read
        ahead = [(c.identity in streaming, -c.held, fd) for fd, c in self._open.items() if c.held > least]
        for streams, held, fd in sorted(ahead):
            if excess_bytes <= 0:
                return
            excess_bytes += held * _MEMORY_FOR_WIRE
            yield self._cut(fd, TOO_MUCH if streams else NO_END)

    def _look_at(
        self, fd: int, connection: Connection, streams: bool, emptied: bool, at_all: bool, now: float
    ) -> str | None:
        if not (at_all or connection.spoke or now - connection.looked > _IDLE_LOOK_S):
            return None
        come = received(fd)
        connection.looked = now if come == connection.received else 0.0
        connection.received = come
        spoke, connection.spoke = connection.spoke, False
        if spoke and emptied:
            connection.base, connection.read = come, 0
        if connection.held <= (MOST_HELD_BYTES if streams else MOST_HELD_BYTES_AT_FIRST):
            return None
        return TOO_MUCH if spoke else NO_END

    def _cut(self, fd: int, reason: str) -> tuple[str, str]:
        self.cut(fd)
        connection = self._open[fd]
        connection.base, connection.read = connection.received, 0
        return connection.peer, reason


def _precedes(one: bytes, other: bytes) -> bool:
    distance = int.from_bytes(other[1:], "big") - int.from_bytes(one[1:], "big")
    return distance % _WRAP < _WRAP // 2


def _peer_of(fd: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fd)) as connection:
            return _name(connection)
    except OSError:  # it is closed already: ZeroMQ's thread may be quicker than we are
        return GONE


def _name(connection: socket.socket) -> str:
    name = connection.getpeername()
    if not isinstance(name, tuple):
        return "somebody on this host"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
