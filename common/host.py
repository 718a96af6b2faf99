"""One loader service as a client sees it."""

import time

import zmq

from common import wire
from common.errors import LoaderRefused


class Host:
    """One service as the client sees it: a socket, which run of it answers, when it last did."""

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

    def send(self, message: wire.Message) -> bool:
        """Whether there is a connection to send it on."""
        try:
            self.socket.send(wire.encode(message), zmq.NOBLOCK)
            self.reachable = True
        except zmq.Again:
            self.reachable = False
        return self.reachable
