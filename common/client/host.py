"""One loader service as a client sees it."""

import time

import zmq

from ..errors import LoaderRefused
from ..wire import messages, sockets
from ..wire.flood import Connection, FloodGuard, received
from ..wire.keys import ClientKeys
from ..wire.sockets import OTHER_MECHANISM, ConnectionEvent, Context

_BROKEN_IN_A_ROW = 12  # handshakes, in a little more than half a second: a service does not die in each of them
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # before one that refused us is asked again

_NOTE_S = 0.5  # how often the kernel is asked how much has come
SILENT_S = 1.0  # after a PING without a word, others are asked for what the host owes


class Host:
    """One service as the client sees it: a socket, which run of it answers, when it last did.

    silent    it was pinged and has said nothing since: stopped, cut off or overloaded, though the connection stands
    refusal   why it does not let us in, or ""
    from_start   whether it was named when the client began, so that it must serve what the others do
    workers, cores   that it has, as it said last
    """

    def __init__(
        self, context: Context, endpoint: str, keys: ClientKeys | None = None, *, from_start: bool = True
    ) -> None:
        self._context, self.endpoint, self._keys, self.from_start = context, endpoint, keys, from_start
        self.instance = b""
        self.workers = self.cores = 0
        self.transport = ""  # how its pixels come, as it was last said
        self.heard = time.monotonic()
        self.pinged = 0.0
        self.silent = False
        self._owes_since: float | None = None  # the first PING that nothing was heard after
        self.refusal = ""
        self._welcome = False  # whether it ever let us in: if so, one that breaks off is ending or behind a proxy
        self._broken = 0
        self._pause_s = _FIRST_PAUSE_S
        self._dial_again = 0.0
        self.connection: Connection | None = None
        self.taken, self.flooded = 0, False
        self._noted = 0.0  # when `taken` was last compared with the kernel
        self._owed: dict[tuple[bytes, int], int] = {}  # bytes of the answer, by stream and ticket
        self._dial()

    def ping(self, now: float) -> bool:
        """Ask whether it is there; whether there is a connection to ask on."""
        self.pinged = now
        if self._owes_since is None:
            self._owes_since = now
        return self.send(messages.Ping())

    def note_heard(self, now: float) -> None:
        self.heard, self._owes_since, self.silent = now, None, False

    def note_silence(self, now: float) -> None:
        """To be called when all that has arrived was taken in."""
        self.silent = self._owes_since is not None and now - self._owes_since > SILENT_S

    @property
    def owed(self) -> int:
        """Bytes of answers that were asked for."""
        return sum([*self._owed.values()])

    def answered(self, stream: bytes, number: int) -> None:
        self._owed.pop((stream, number), None)

    def send(self, message: messages.Message, answer_bytes: int = 0) -> bool:
        """Return True if there is a connection to send it on. To a ticket an answer of so many bytes may come."""
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
        """The frames of the next message that has come; None if none has."""
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
        """Let `poller` wake up for messages, for news of the connection, and for a connection that is missing."""
        missing = not self.reachable and not self.refusal
        poller.register(self._end.socket, zmq.POLLIN | zmq.POLLOUT if missing else zmq.POLLIN)
        poller.register(self._end.monitor, zmq.POLLIN)

    def can_send(self, events: "dict[object, int]") -> bool:
        """Whether the poller found that a connection that was missing is there."""
        return bool(events.get(self._end.socket, 0) & zmq.POLLOUT)

    def watch(self) -> bool:
        """Take in what became of the connection; whether it was newly refused.

        ZeroMQ gives a connection up that was refused; it is dialled anew after a pause.
        """
        before = self.refusal
        for event in self._end.events():
            if event.kind == zmq.EVENT_CONNECTED:
                self._connected(event.value)
            elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.refusal, self._broken, self._pause_s, self._welcome = "", 0, _FIRST_PAUSE_S, True
            else:
                self._broken += 1
                self._refused(event)
        if self.flooded:
            self.flooded = False
            self.refuses("it sends more than it was asked for")
        if self.refusal and time.monotonic() > self._dial_again:
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self.close()
            self._dial()
        return bool(self.refusal) and self.refusal != before

    def _connected(self, fd: int) -> None:
        connection = Connection.of(fd)
        FloodGuard.note(connection, self.connection)
        self.connection, self.taken, self._owed = connection, 0, {}

    def refuses(self, reason: str) -> None:
        """The service does not let us in; it is asked again after a pause."""
        self.refusal, self._dial_again = reason, time.monotonic() + self._pause_s

    def _refused(self, event: ConnectionEvent) -> None:
        """Which side notices first what does not fit is chance: the other sees a handshake that broke off."""
        if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.refuses("it does not know our public key, which belongs into clients/ of its keys (--keys)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and event.value != OTHER_MECHANISM:
            self.refuses("what answers there is no alexnet-loader (--loader)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and self._keys is None:
            self.refuses("it talks only to clients that have keys (--keys)")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self.refuses("it has no keys, and we have some (--keys)")
        elif self._keys is not None and self._broken >= _BROKEN_IN_A_ROW and not self._welcome and not self.refusal:
            self.refuses("it breaks off, as one does that has no keys, or others than our server.key (--keys)")

    def _dial(self) -> None:
        try:
            self._end = sockets.dealer(self._context, self.endpoint, self._keys)
        except zmq.ZMQError as error:
            raise LoaderRefused(
                f"loader endpoint {self.endpoint!r}: {error.strerror}; it looks like tcp://host:5555"
            ) from None
        self.reachable = False
