"""Sockets of client and service, with their limits and connection events.

An oversized frame ends its connection before memory is allocated; a peer that does not read fills only its own queue.
"""

import ctypes
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from .keys import ClientKeys, ServerKeys

Context = zmq.Context[zmq.Socket[bytes]]

MAX_REQUEST_BYTES = 1 << 15  # of a frame that a client sends: a TICKET that names every slot fits
MAX_REPLY_BYTES = 1 << 31  # of a frame that a service sends: the pixels of a batch
_MOST_WAITING = 1000  # messages queued to one peer
_KERNEL_BYTES = 1 << 16  # receive buffer of one connection
_ZERO_COPY_RECV = 10  # a context's option that pyzmq has no name for
_HANDSHAKE_MS = 5_000
_HEARTBEAT_MS = 2_000  # ZeroMQ's own ping, answered by its thread even while the program computes
_HEARTBEAT_TIMEOUT_MS = 10_000

HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_numbers = itertools.count()
OTHER_MECHANISM = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH  # one side has keys, the other has not


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """A zmq.EVENT_..., and the connection's file descriptor, or why the handshake failed."""

    kind: int
    value: int


class End:
    """A socket, and its `monitor`, readable if there are connection events."""

    def __init__(self, context: Context, kind: int, events: int) -> None:
        self.socket = context.socket(kind)
        address = f"inproc://monitor-{next(_numbers)}"  # an id() may come again before the name is free
        self.socket.monitor(address, events)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.RCVHWM, 0)  # else ZeroMQ's own thread would block on a full one
        self.monitor.connect(address)
        _set_common(self.socket)

    def events(self) -> Iterator[ConnectionEvent]:
        while True:
            try:
                event, _ = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield ConnectionEvent(*struct.unpack("=Hi", event))

    def close(self, linger_ms: int = 0) -> None:
        """Close both, after `linger_ms` at most for unsent messages. Idempotent."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)


def new_context(io_threads: int = 1) -> Context:
    context: Context = zmq.Context(io_threads)
    context.set(_ZERO_COPY_RECV, 0)  # else a short message keeps the whole buffer it came in
    return context


def dealer(context: Context, endpoint: str, keys: ClientKeys | None = None, io_thread: int = 0) -> End:
    """The client's end, on one of the context's threads. It reconnects by itself, with EVENT_CONNECT_RETRIED, unless
    the peer broke the protocol.

    Raises zmq.ZMQError if the endpoint is malformed.
    """
    lost = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
    end = End(context, zmq.DEALER, zmq.EVENT_CONNECTED | lost | HANDSHAKES)
    socket = end.socket
    socket.setsockopt(zmq.AFFINITY, 1 << io_thread)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # a ticket goes to a living service or is seen not to
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(keys.secret))
    return _attached(end, socket.connect, endpoint)


def router(context: Context, endpoint: str, keys: ServerKeys | None = None) -> End:
    """The service's end, bound. Raises zmq.ZMQError if the endpoint is taken or malformed."""
    _seed_identities()
    end = End(context, zmq.ROUTER, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | HANDSHAKES)
    socket = end.socket
    socket.setsockopt(zmq.RCVBUF, _KERNEL_BYTES)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, "alexnet-loader")  # without keys too: it refuses ZMTP 1 and 2
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a handler nobody is admitted
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a client that is gone is an error, not silence
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)  # no client sends pixels
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    _attached(end, socket.bind, endpoint)
    # After bind, so that connections speak ZMTP and the ROUTER numbers them itself: with libzmq 4.3.5 an identity that
    # a peer claims may be another's, or the next number, which asserts. The price: one frame a reply (`framed`).
    socket.setsockopt(zmq.ROUTER_RAW, 1)
    return end


def _seed_identities() -> None:
    """Seed libc's rand(), from which ZeroMQ numbers connections: unseeded, a peer could guess the next number."""
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4), "little"))


def _attached(end: End, attach: Callable[[str], object], endpoint: str) -> End:
    end.socket.setsockopt(zmq.IPV6, int("[" in endpoint))  # else IPv4's addresses would be spelled as IPv6's
    try:
        attach(endpoint)
    except zmq.ZMQError:
        end.close()
        raise
    return end


def _set_common(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _MOST_WAITING)
    # With libzmq 4.3.5 an engine that stopped reading asserts if its peer resets, so none ever stops: flood.py and
    # loader/service/connections.py bound the memory.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT_MS)
