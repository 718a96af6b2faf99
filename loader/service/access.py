"""Access control: admits or refuses each connection, and logs refusals.

ZeroMQ asks on an inproc socket before a handshake ends (ZAP, rfc.zeromq.org/spec/27). While clients hold too much
memory the answer waits, so that nobody new can send; the question is read at once all the same, since ZeroMQ keeps an
unread one even if its connection is gone. Only the ROUTER's monitor tells of clients with no key, or another service's.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Container, Set
from pathlib import Path

import zmq
from zmq.utils import z85

from common.cli.log import RateLimiter
from common.errors import UsageError
from common.malloc import bytes_in_use
from common.wire import keys
from common.wire.keys import ServerKeys
from common.wire.sockets import OTHER_MECHANISM, ConnectionEvent, Context, End
from loader.service.connections import Connections
from loader.service.inbox import Request

log = logging.getLogger(__name__)

_REQUESTS = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_REREAD_S = 0.5  # between two looks for keys that were taken away
_MEASURE_S = 0.01  # between two looks at the memory in use, for which malloc walks through all that is free
_LOOK_S = 0.05  # between two looks at the connections, unless memory grows by _GROWN_BYTES
_GROWN_BYTES = 1 << 22
_ROOM_BYTES = 24 << 20  # for all clients together; beyond, nobody new is admitted
_PRESSING_BYTES = 48 << 20  # beyond, connections are cut
_SETTLED_S = 1.0
_MOST_QUESTIONS = 1024  # without an answer; the oldest is dropped, and its handshake times out


class AllowList:
    """The public keys in a folder, by name; read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: list[tuple[str, int, int]] = []
        self._names: dict[bytes, str] = {}

    def name_of(self, key: bytes) -> str | None:
        return self._names.get(key)

    def read_if_changed(self) -> None:
        try:
            files = [(entry.name, entry.stat()) for entry in os.scandir(self._folder) if entry.name.endswith(".key")]
        except OSError as error:
            log.warning("%s cannot be read: %s; the keys known so far still count", self._folder, error.strerror)
            return
        seen = sorted((name, of.st_ctime_ns, of.st_ino) for name, of in files)
        if seen != self._seen:
            self._seen = seen
            self._names = dict(pair for name, _, _ in seen if (pair := self._read(name)))
            log.info("%s: %s may connect", self._folder, ", ".join(sorted(self._names.values())) or "nobody")

    def _read(self, file: str) -> tuple[bytes, str] | None:
        try:
            return keys.public_key(self._folder / file), file.removesuffix(".key")
        except UsageError as error:
            log.warning("left out: %s", error)
            return None


class Access:
    """Admission to the ROUTER `end`. Without `own_keys` anybody may connect, up to `most_connections`.

    refused   connections that were refused or cut, so far
    """

    def __init__(self, context: Context, end: End, own_keys: ServerKeys | None, most_connections: int) -> None:
        self._end, self._most_connections = end, most_connections
        self._allowed = AllowList(own_keys.allowed) if own_keys is not None else None
        self._questions: deque[list[bytes]] = deque(maxlen=_MOST_QUESTIONS)  # without an answer yet
        self._requests = context.socket(zmq.ROUTER)
        self._requests.bind(_REQUESTS)
        self._connections = Connections(most_connections)
        self._calm_bytes = self._looked_bytes = bytes_in_use()
        self._least: int | None = None  # fewest bytes in use since the last look, with the inbox empty
        self._failed: ConnectionEvent | None = None
        self._log_limit = RateLimiter()
        self.refused = 0
        self._reread = self._looked = self._measured = self._unsettled = time.monotonic()

    @property
    def sockets(self) -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes]]":
        return self._requests, self._end.monitor

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        self._requests.close(linger=0)

    def hear(self, ready: Set[object], streaming: Callable[[], Container[bytes]], emptied: bool) -> bool:
        """Answer ZeroMQ's questions and take in its events. Return True if a connection has ended.

        `ready` are the sockets that can be read; `streaming` gives the identities of clients with an open stream.
        """
        ended = False
        if not ready.isdisjoint(self.sockets):
            for event in self._end.events():  # first: an address is known while it lasts
                ended |= self._take_in(event)
            while self._requests.poll(0):
                self._questions.append(self._requests.recv_multipart())
        unknown = emptied and self._least is None
        if self._questions or unknown or time.monotonic() - self._measured > _MEASURE_S:
            self._measure(streaming, emptied)
        return ended

    def _measure(self, streaming: Callable[[], Container[bytes]], emptied: bool) -> None:
        """Look at the memory in use, and answer questions if it allows."""
        self._measured, in_use = time.monotonic(), bytes_in_use()
        if emptied:
            self._least = in_use if self._least is None else min(self._least, in_use)
        if time.monotonic() - self._looked > _LOOK_S or in_use - self._looked_bytes > _GROWN_BYTES:
            in_use = self._look(streaming(), in_use)
        while self._questions and in_use - self._calm_bytes <= _ROOM_BYTES:
            self._answer(self._questions.popleft())
            in_use = bytes_in_use()
        if self._allowed is not None and time.monotonic() - self._reread > _REREAD_S:
            self._reread = time.monotonic()
            self._allowed.read_if_changed()

    def _look(self, streaming: Container[bytes], in_use: int) -> int:
        grown, least = in_use - self._looked_bytes > _GROWN_BYTES, self._least
        emptied = least is not None
        cut = list(self._connections.look(streaming, emptied, at_all=grown))
        excess = bytes_in_use() - self._calm_bytes - (_ROOM_BYTES if emptied else _PRESSING_BYTES)
        if excess > 0:
            cut += self._connections.make_room(excess, streaming, emptied)
        self._settle(least, bool(cut))
        for peer, reason in cut:
            if reason:
                self._tell(peer, reason)
        self._least = None
        self._looked, self._looked_bytes = time.monotonic(), bytes_in_use()
        return self._looked_bytes

    def _settle(self, least: int | None, cut: bool) -> None:
        """Count as calm what stays in use with an empty inbox: ZeroMQ frees the memory of a lost connection late."""
        now = time.monotonic()
        if least is None or cut or least <= self._calm_bytes + _ROOM_BYTES // 2:
            self._unsettled = now
        if least is not None and (least < self._calm_bytes or now - self._unsettled > _SETTLED_S):
            self._calm_bytes = least

    def admits(self, request: Request) -> bool:
        """Return False if the sender's key was taken away since it connected."""
        self._connections.delivered(request.connection, request.identity, request.size)
        if self._allowed is None or self._allowed.name_of(request.key) is not None:
            return True
        self._tell(request.address, f"its public key {request.key.decode()} was taken away (--keys)")
        return False

    def cut(self, identity: bytes, reason: str) -> None:
        for peer in self._connections.cut_client(identity):
            self._tell(peer, reason)

    def _answer(self, question: list[bytes]) -> None:
        peer, empty, _, request_id, _, address, _, _, *credentials = question
        status = [b"200", b"OK", b""] if self._allowed is None else self._status(self._allowed, address, credentials)
        self._requests.send_multipart([peer, empty, _VERSION, request_id, *status, b""])

    def _status(self, allowed: AllowList, address: bytes, credentials: list[bytes]) -> list[bytes]:
        key = z85.encode(credentials[0])
        allowed.read_if_changed()
        if allowed.name_of(key) is not None:
            return [b"200", b"OK", key]
        self._tell(address.decode(), f"its public key {key.decode()} is not in the folder of clients (--keys)")
        return [b"400", b"unknown key", b""]

    def _take_in(self, event: ConnectionEvent) -> bool:
        if event.kind == zmq.EVENT_ACCEPTED:
            peer = self._connections.accepted(event.value).peer
            if len(self._connections) > self._most_connections:
                self._connections.cut(event.value)
                self._tell(peer, f"{self._most_connections} connections are open already")
        elif event.kind in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            self._failed = event
        elif event.kind == zmq.EVENT_DISCONNECTED:
            peer = self._connections.ended(event.value)
            if self._failed is not None:
                self._tell(peer, self._reason(self._failed))
                self._failed = None
            return True
        return False

    def _reason(self, failed: ConnectionEvent) -> str:
        """Either side may notice the mismatch first; the other one sees a handshake that broke off."""
        if failed.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            why = "" if self._allowed is None else ", as those do whose keys do not fit"
            return f"it broke off the handshake{why}"
        if failed.value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            return "it came with another service's server.key"
        if failed.value != OTHER_MECHANISM:
            return "it does not speak ZeroMQ's protocol"
        return "it has no keys" if self._allowed is not None else "it has keys, and this service none (--keys)"

    def _tell(self, address: str, reason: str) -> None:
        self.refused += 1
        host = address.rpartition(":")[0] or address
        if self._log_limit.allows(host + reason):
            log.warning("%s was refused: %s", address or "somebody on this host", reason)
