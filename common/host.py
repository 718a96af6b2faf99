"""One loader service as a client sees it."""

import time

import zmq

from common import wire
from common.errors import LoaderRefused

SILENT_S = 1.0  # after a PING without a word, others are asked for what the host owes


class Host:
    """One service as the client sees it: a socket, which run of it answers, when it last did.

    silent   it was pinged and has said nothing since: stopped, cut off or overloaded, though the connection stands
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        try:
            self.socket = wire.dealer(context, endpoint)
        except zmq.ZMQError as error:
            raise LoaderRefused(
                f"loader endpoint {endpoint!r}: {error.strerror}; it looks like tcp://host:5555"
            ) from None
        self.endpoint = endpoint
        self.instance = b""
        self.transport = ""  # how its pixels come, as it was last said
        self.heard = time.monotonic()
        self.pinged = 0.0
        self.reachable = False
        self.silent = False
        self._owes_since: float | None = None  # the first PING that nothing was heard after

    def ping(self, now: float) -> bool:
        """Ask whether it is there; whether there is a connection to ask on."""
        self.pinged = now
        if self._owes_since is None:
            self._owes_since = now
        return self.send(wire.Ping())

    def note_heard(self, now: float) -> None:
        self.heard, self._owes_since, self.silent = now, None, False

    def note_silence(self, now: float) -> None:
        """To be called when all that has arrived was taken in."""
        self.silent = self._owes_since is not None and now - self._owes_since > SILENT_S

    def send(self, message: wire.Message) -> bool:
        """Whether there is a connection to send it on."""
        try:
            self.socket.send(wire.encode(message), zmq.NOBLOCK)
            self.reachable = True
        except zmq.Again:
            self.reachable = False
        return self.reachable
