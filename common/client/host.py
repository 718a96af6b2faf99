"""One loader service, as its client sees it."""

import logging
import time
from collections.abc import Mapping

import zmq

from ..errors import LoaderRefused
from ..wire import messages, sockets
from ..wire.flood import FloodGuard, TcpConnection, received
from ..wire.keys import ClientKeys
from ..wire.sockets import OTHER_MECHANISM, ConnectionEvent, Context

log = logging.getLogger(__name__)

_BROKEN_IN_A_ROW = 12  # handshakes, in about half a second: no service dies in each of them
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # before a host that refused is dialled again
_NOTE_S = 0.5  # between two questions to the kernel
_DIALS_S = 0.5  # a lost connection that ZeroMQ does not dial again within this, it never will
SILENT_S = 1.0  # after this long without a PONG, the host's tickets are reassigned
_IN, _OUT = int(zmq.POLLIN), int(zmq.POLLOUT)

Events = Mapping[object, int]  # of a poll, by socket


class Host:
    """One service.

    silent      pinged without a response since, though the connection stands
    refusal     why it does not admit this client, or ""
    from_start  True if the client began with it, so that it must serve what the others do
    """

    def __init__(
        self,
        context: Context,
        endpoint: str,
        keys: ClientKeys | None = None,
        *,
        from_start: bool = True,
        io_thread: int = 0,
    ) -> None:
        self._context, self.endpoint, self._keys, self.from_start = context, endpoint, keys, from_start
        self._io_thread = io_thread
        self.instance = b""
        self.workers = self.cores = 0
        self._transport = ""  # of its pixels, as last logged
        self.heard = time.monotonic()
        self.pinged = 0.0
        self.silent = False
        self._owes_since: float | None = None  # the first PING without a response
        self.refusal = ""
        self._admitted = False  # once: if it breaks off later, it is ending or behind a proxy
        self._broken = 0
        self._pause_s = _FIRST_PAUSE_S
        self._dial_again = 0.0
        self._lost_since: float | None = None  # the connection, which ZeroMQ has not begun to dial again
        self.connection: TcpConnection | None = None
        self.taken, self.flooded = 0, False
        self._noted = 0.0  # when `taken` last came from the kernel
        self._owed: dict[tuple[bytes, int], int] = {}  # bytes of the reply, by stream and ticket
        self._dial()

    def ping(self, now: float) -> bool:
        self.pinged = now
        if self._owes_since is None:
            self._owes_since = now
        return self.send(messages.Ping())

    def note_heard(self, now: float) -> None:
        self.heard, self._owes_since, self.silent = now, None, False

    def note_silence(self, now: float) -> None:
        self.silent = self._owes_since is not None and now - self._owes_since > SILENT_S

    def note_transport(self, transport: str) -> None:
        if self._transport != transport:
            self._transport = transport
            log.info("%s: pixels come %s", self.endpoint, transport)

    @property
    def owed(self) -> int:
        return sum([*self._owed.values()])

    def answered(self, stream: bytes, number: int) -> None:
        self._owed.pop((stream, number), None)

    def send(self, message: messages.Message, answer_bytes: int = 0) -> bool:
        """Send without blocking; False without a connection. A ticket adds `answer_bytes` to what is `owed`."""
        if isinstance(message, messages.Ticket):
            self._owed[message.stream, message.number] = answer_bytes
        elif isinstance(message, messages.Bye):
            self._owed = {key: size for key, size in self._owed.items() if key[0] != message.stream}
        try:
            self._end.socket.send(messages.encode(message), zmq.NOBLOCK)
            self.reachable = True
        except zmq.Again:
            self.reachable = False
        return self.reachable

    def receive(self) -> list[memoryview] | None:
        try:
            frames = self._end.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._note_all_taken()
            return None
        self.taken += sum(map(len, frames))
        return [frame.buffer for frame in frames]

    def _note_all_taken(self) -> None:
        if self.connection is not None and time.monotonic() - self._noted > _NOTE_S:
            self._noted = time.monotonic()
            self.taken = received(self.connection.fd)

    def close(self) -> None:
        FloodGuard.note(None, self.connection)
        self.connection = None
        self._end.close(linger_ms=200)  # time for a BYE to leave

    def register(self, poller: zmq.Poller) -> None:
        missing = not self.reachable and not self.refusal
        poller.register(self._end.socket, zmq.POLLIN | zmq.POLLOUT if missing else zmq.POLLIN)
        poller.register(self._end.monitor, zmq.POLLIN)

    def can_send(self, events: Events) -> bool:
        return bool(events.get(self._end.socket, 0) & _OUT)

    def can_receive(self, events: Events) -> bool:
        return bool(events.get(self._end.socket, 0) & _IN)

    def watch(self, events: Events) -> bool:
        """Take in connection events, dial a refused host again after a pause; True if newly refused."""
        before = self.refusal
        for event in self._end.events() if self._end.monitor in events else ():
            if event.kind == zmq.EVENT_CONNECTED:
                self._connected(event.value)
            elif event.kind == zmq.EVENT_DISCONNECTED:
                self._lost_since = time.monotonic()
            elif event.kind == zmq.EVENT_CONNECT_RETRIED:
                self._lost_since = None
            elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.refusal, self._broken, self._pause_s, self._admitted = "", 0, _FIRST_PAUSE_S, True
            else:
                self._broken += 1
                self._note_failure(event)
        if self.flooded:
            self.flooded = False
            self.refuses("it sends more than was requested")
        if self.refusal and time.monotonic() > self._dial_again:
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._redial()
        elif not self.refusal and self._lost_since is not None and time.monotonic() - self._lost_since > _DIALS_S:
            log.warning("%s, or the way to it, broke the protocol; it is dialled again", self.endpoint)
            self._redial()
        return bool(self.refusal) and self.refusal != before

    def _redial(self) -> None:
        self.close()
        self._dial()

    def _connected(self, fd: int) -> None:
        connection = TcpConnection.of(fd)
        FloodGuard.note(connection, self.connection)
        self.connection, self.taken, self._owed = connection, 0, {}

    def refuses(self, reason: str) -> None:
        self.refusal, self._dial_again = reason, time.monotonic() + self._pause_s

    def _note_failure(self, event: ConnectionEvent) -> None:
        """Guess why: which side finds a mismatch first is chance, the other sees a broken handshake."""
        if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.refuses("it does not know our public key, which belongs in clients/ of its keys (--keys)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and event.value != OTHER_MECHANISM:
            self.refuses("whatever answers there is not alexnet-loader (--loader)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and self._keys is None:
            self.refuses("it admits only clients with keys (--keys)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self.refuses("it has no keys, but this client has (--keys)")
        elif self._keys is not None and self._broken >= _BROKEN_IN_A_ROW and not self._admitted and not self.refusal:
            self.refuses("it breaks off: it has no keys, or keys other than our server.key (--keys)")

    def _dial(self) -> None:
        try:
            self._end = sockets.dealer(self._context, self.endpoint, self._keys, self._io_thread)
        except zmq.ZMQError as error:
            raise LoaderRefused(
                f"loader endpoint {self.endpoint!r}: {error.strerror}; expected something like tcp://host:5555"
            ) from None
        self.reachable, self._lost_since = False, None
