"""Nearly valid messages: the wire's own, mutated, and what sends them to a service or a client."""

import math
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgpack
import zmq

from common.wire import messages
from common.wire.sockets import MAX_REQUEST_BYTES

STREAM = bytes(range(16))
Frames = list[bytes]

_EXTREMES: list[Any] = [
    None, True, False, 0, 1, -1, 127, 128, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0,
    1e308, math.nan, math.inf, "", "train", "val", "full", "x" * 2000, b"", b"\0" * 16, b"\xff" * 16, b"x" * 4000, [],
    [[]], [0] * 100, {}, {"a": 1}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2),
]  # fmt: skip


def seeds(stream: bytes = STREAM, request: int = 0) -> list[Frames]:
    """One or two messages of each kind, with `stream` as the stream's id."""
    corpus = [
        messages.Hello(request, "train", 3, "train", 64, 0.1, "uint8", "replace", True, False, 16, 1),
        messages.Hello(request, "val", 5, "full", 64, 0.0, "float32", "stop", False, True, 2, 65_536),
        messages.Ticket(1, stream, 0, 0, 16, False, 0, b""),
        messages.Ticket(9, stream, 2, 64, 8, True, 5, struct.pack("<2I", 0, 2)),
        messages.AskNames(3, stream, struct.pack("<3I", 0, 2, 149)),
        messages.NamesReply(3, stream, [b"ape/00001.jpg", b"", b"\xff\n"]),
        messages.Ping(),
        messages.Welcome(
            request, stream, b"instance", 150, ["a", "b"], STREAM, "libjpeg", 2, 8, 4, 77, 5, STREAM, 6, 4096
        ),
        messages.BatchReply(1, stream, b"\0" * 64, b"\0" * 64, messages.NO_SLOT, b"", b"", [], [0] * 5, 16),
        messages.BatchReply(
            9, stream, b"\0" * 8, b"\0" * 8, 3, STREAM, b"\0" * 16, [(64, 3, "cut short")], [0, 12, 340, 25_000, 30], 1
        ),
        messages.Fault(1, stream, messages.BAD_RECORD, "cut short", 7),
        messages.Fault(request, b"", messages.REFUSED, "no", messages.NO_RECORD),
        messages.Pong(b"instance", 2, 8, 0),
        messages.Bye(stream),
    ]
    return [[messages.encode(message), *[b"\0" * 64] * message.payloads] for message in corpus]


class Fuzzer:
    """Draws from `corpus` and mutates fields, bytes and frames; the same `seed` gives the same."""

    def __init__(self, seed: int, corpus: list[Frames]) -> None:
        self._random = random.Random(seed)
        self.corpus = corpus

    def message(self) -> Frames:
        return self.changed(self._random.choice(self.corpus))

    def changed(self, frames: Frames) -> Frames:
        """Leave one of ten as it is: repeated, or out of order."""
        changes: dict[Callable[[Frames], Frames], int] = {
            self._field: 35, self._bits: 20, self._cut: 10, self._splice: 15, self._frames: 10, list: 10,
        }  # fmt: skip
        (change,) = self._random.choices(list(changes), list(changes.values()))
        return [frame[: MAX_REQUEST_BYTES - 1] for frame in change(list(frames))]

    def _field(self, frames: Frames) -> Frames:
        """One or two values of the header become others, often impossible ones."""
        values = msgpack.unpackb(frames[0])
        for _ in range(self._random.randint(1, 2)):
            place = self._random.randrange(len(values))
            if type(values[place]) is int and abs(values[place]) < 2**62 and self._random.random() < 0.5:
                values[place] += self._random.choice([-1, 1, 7, 1 << 14])
            else:
                values[place] = self._random.choice(_EXTREMES)
        if self._random.random() < 0.1:
            values = values[: self._random.randrange(len(values))]
        return [msgpack.packb(values), *frames[1:]]

    def _bits(self, frames: Frames) -> Frames:
        place = self._random.randrange(len(frames))
        frame = bytearray(frames[place] or b"\0")
        for _ in range(self._random.randint(1, 4)):
            frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
        frames[place] = bytes(frame)
        return frames

    def _cut(self, frames: Frames) -> Frames:
        place = self._random.randrange(len(frames))
        frames[place] = frames[place][: self._random.randrange(len(frames[place]) + 1)]
        return frames

    def _splice(self, frames: Frames) -> Frames:
        other = self._random.choice(self.corpus)[0]
        at, other_at = self._random.randrange(len(frames[0])), self._random.randrange(len(other))
        return [frames[0][:at] + self._random.randbytes(self._random.choice([0, 1, 9])) + other[other_at:], *frames[1:]]

    def _frames(self, frames: Frames) -> Frames:
        more = [self._random.randbytes(self._random.choice([0, 1, 100])) for _ in range(self._random.randint(1, 5))]
        return self._random.choice([frames + more, more + frames, frames[1:] or [b""], frames * 2])


class Attacker:
    """A client that opens a stream and sends what the fuzzer makes of it; `answers` counts them by kind."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, seed: int) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._fuzzer = Fuzzer(seed, seeds())
        self.answers = Counter[str]()
        self._socket.send(self._fuzzer.corpus[0][0])
        welcome = self._answer()
        assert isinstance(welcome, messages.Welcome)
        self._stream = welcome.stream
        self._fuzzer.corpus = seeds(welcome.stream)

    def burst(self, count: int) -> list[Frames]:
        """The next frames to send."""
        return [self._fuzzer.message() for _ in range(count)]

    def renew(self) -> None:
        """Open the stream anew, since what was sent may have closed or confused it, and have a ticket answered."""
        bye, hello = messages.encode(messages.Bye(self._stream)), self._fuzzer.corpus[0][0]
        for frame in (bye, hello, messages.encode(messages.Ticket(1000, self._stream, 0, 0, 8, False, 0, b""))):
            self._socket.send(frame)
        while not (isinstance(answer := self._answer(), messages.BatchReply) and answer.number == 1000):
            pass

    def send(self, burst: list[Frames]) -> None:
        """Send them all, and wait until the service has taken them in. Each of its answers must be a message."""
        for frames in burst:
            self._socket.send_multipart(frames)
        self._socket.send(messages.encode(messages.Bye(STREAM)))
        self._socket.send(messages.encode(messages.Ticket(2**62 + 1, STREAM, 0, 0, 1, False, 0, b"")))
        while True:
            answer = self._answer()
            if isinstance(answer, messages.Fault) and answer.number == 2**62 + 1 and answer.stream == STREAM:
                return

    def _answer(self) -> messages.Message:
        assert self._socket.poll(60_000), "the service does not answer"
        header, *payloads = messages.split(memoryview(self._socket.recv()))
        message = messages.decode(bytes(header), len(payloads))
        self.answers[message.kind] += 1
        return message

    def close(self) -> None:
        self._socket.close()


class LyingProxy:
    """Stands between one client and a service, and sends lies after the service's messages or in their place."""

    def __init__(self, service: str, seed: int, lies: float = 0.5) -> None:
        self._random, self._fuzzer, self._lies = random.Random(seed), Fuzzer(seed, seeds()), lies
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front, self._back = self._context.socket(zmq.ROUTER), self._context.socket(zmq.DEALER)
        for socket in (self._front, self._back):
            socket.linger = 0
        self._front.bind("tcp://127.0.0.1:*")
        self._back.connect(service)
        self.endpoint = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self.told = 0  # lies
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def _pass_on(self) -> None:
        client, welcomed = b"", False
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        poller.register(self._back, zmq.POLLIN)
        while not self._ending.is_set():
            ready = dict(poller.poll(20))
            if self._front in ready:
                client, *asked = self._front.recv_multipart()
                self._back.send_multipart(asked)
            if self._back in ready:
                answer = self._back.recv()
                parts = [bytes(part) for part in messages.split(memoryview(answer))]
                replaced = welcomed and self._random.random() < self._lies / 4
                welcomed = True  # the first word is true: who a service is, only keys can tell
                if not replaced:
                    self._front.send_multipart([client, answer])
                while self._random.random() < self._lies:
                    self.told += 1
                    lie = self._fuzzer.changed(parts) if self._random.random() < 0.7 else self._fuzzer.message()
                    if len(lie) == 2:
                        lie = [messages.framed(lie[0]) + lie[1]]
                    self._front.send_multipart([client, *lie])

    def __enter__(self) -> "LyingProxy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        self._context.destroy(linger=0)
