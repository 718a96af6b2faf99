"""Requests from clients, a bounded number of frames per poll, so that no client can starve the loop."""

from collections.abc import Iterator
from dataclasses import dataclass

import zmq

FRAMES_AT_ONCE = 256
_SHORT = 255  # bytes: the length of a frame up to this takes one byte on the wire, of others eight
_ENCRYPTED = 33  # bytes more that CURVE makes of a frame


@dataclass(frozen=True, slots=True)
class Request:
    """A message from a client.

    identity     number that the ROUTER gave the connection
    payloads     frames behind the header, of which an honest client sends none
    size         bytes on the wire
    """

    identity: bytes
    connection: int
    header: zmq.Frame
    payloads: int
    size: int

    @property
    def address(self) -> str:
        return str(_property(self.header, "Peer-Address") or "somebody on this host")

    @property
    def key(self) -> bytes:
        """Public key of the client, Z85, or empty."""
        return str(_property(self.header, "User-Id") or "").encode()


class Inbox:
    """Reader of the ROUTER, frame by frame: a long message is resumed at the next poll.

    emptied   True if the last poll left no complete message behind
    """

    def __init__(self, router: "zmq.Socket[bytes]") -> None:
        self._router = router
        self._more_bytes = _ENCRYPTED if router.getsockopt(zmq.MECHANISM) == zmq.CURVE else 0
        self._identity: bytes | None = None
        self._header: zmq.Frame | None = None
        self._payloads = self._size = 0
        self.emptied = True

    def requests(self) -> Iterator[Request]:
        self.emptied = False
        for _ in range(FRAMES_AT_ONCE):
            try:
                if self._identity is None:
                    self._identity, self._header = self._router.recv(zmq.NOBLOCK), None
                    self._payloads = self._size = 0
                    continue
                frame = self._router.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self.emptied = True
                return
            length = len(frame) + self._more_bytes
            self._size += length + (2 if length <= _SHORT else 9)
            if self._header is None:
                self._header = frame
            else:
                self._payloads += 1
            if not frame.more:
                identity, self._identity = self._identity, None
                connection = _property(self._header, zmq.SRCFD)
                if connection is not None:
                    yield Request(identity, int(connection), self._header, self._payloads, self._size)


def _property(frame: zmq.Frame, name: int | str) -> int | str | None:
    """None if the frame has no such property, as from old versions of ZMTP."""
    try:
        value: int | str = frame.get(name)
    except zmq.ZMQError:
        return None
    return value
