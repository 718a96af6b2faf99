"""What clients send, message by message. However much one sends, the service turns to its other work in between."""

from collections.abc import Iterator
from dataclasses import dataclass

import zmq

FRAMES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Request:
    """A message: who sent it, its first frame, the number of frames behind that, which no client has cause to send."""

    identity: bytes
    header: zmq.Frame
    payloads: int

    @property
    def connection(self) -> int:
        """The file descriptor it came by."""
        return int(self.header.get(zmq.SRCFD))

    @property
    def address(self) -> str:
        """Where it came from, for the log."""
        return str(self.header.get("Peer-Address")) or "somebody on this host"

    @property
    def key(self) -> bytes:
        """The client's public key, Z85, where the service has keys."""
        return str(self.header.get("User-Id")).encode()


class Inbox:
    """Reads the ROUTER frame by frame, and remembers where a long message was left."""

    def __init__(self, router: "zmq.Socket[bytes]") -> None:
        self._router = router
        self._identity: bytes | None = None
        self._header: zmq.Frame | None = None
        self._payloads = 0

    def requests(self) -> Iterator[Request]:
        """The messages that are complete, until there are none or FRAMES_AT_ONCE were read."""
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = self._router.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if self._identity is None:
                self._identity, self._header, self._payloads = frame.bytes, None, 0
            elif self._header is None:
                self._header = frame
            else:
                self._payloads += 1
            if not frame.more:
                identity, self._identity = self._identity, None
                if self._header is not None:
                    yield Request(identity, self._header, self._payloads)
