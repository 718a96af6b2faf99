"""Attackers of a service, each a thread that connects again and again and breaks the protocol in another way.

They speak ZMTP (rfc.zeromq.org/spec/23) by hand, or misuse ordinary sockets of an admitted client. Each connection ends
with a reset, in the middle of something.
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import zmq

from common.wire import messages
from common.wire.keys import ClientKeys
from tests.support.zmtp import frame_of

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
FOREIGN = {
    "ZMTP 1.0": b"\x01\x00\x02\x00z",
    "ZMTP 2.0": b"\xff" + bytes(8) + b"\x7f\x01\x05" + b"\x00\x00" + b"\x00\x01z",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(250)) * 2 + b"\x00" * 6,
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: " + b"x" * 280 + b"\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" + b"\x00\x00\x05\xdc" + b"k" * 1500,
}
PING = b"\x04\x07\x04PING\x00\x00"
SHORT_PING = b"\x04\x05\x04PING"
Attack = Callable[["Attacker"], None]


def ready(identity: bytes = b"", socket_type: bytes = b"DEALER") -> bytes:
    """The command that ends a NULL handshake."""
    body = b"\x05READY" + _property(b"Socket-Type", socket_type) + _property(b"Identity", identity)
    return b"\x06" + len(body).to_bytes(8, "big") + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def connect(endpoint: str, timeout_s: float = 2.0) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it is a reset
    return connection


def shake_hands(endpoint: str, identity: bytes = b"", timeout_s: float = 2.0) -> socket.socket:
    """A DEALER connection of this identity, without keys."""
    connection = connect(endpoint, timeout_s)
    try:
        connection.sendall(GREETING + ready(identity))
        came = b""
        while len(came) < len(GREETING) + 9 or len(came) < len(GREETING) + 2 + came[len(GREETING) + 1]:
            part = connection.recv(1 << 12)
            if not part:
                raise ConnectionError("the other side ended the handshake")
            came += part
    except OSError:
        connection.close()
        raise
    return connection


class Attacker:
    """Draws one of ATTACKS after another."""

    def __init__(self, endpoint: str, seed: int, keys: ClientKeys | None) -> None:
        self.endpoint, self.random, self._keys = endpoint, random.Random(seed), keys
        self.made: Counter[str] = Counter()

    def run(self, ended: threading.Event) -> None:
        attacks = {**ATTACKS, **(ADMITTED if self._keys is not None else {})}
        while not ended.is_set():
            name = self.random.choice(sorted(attacks))
            with contextlib.suppress(OSError, zmq.ZMQError):  # the service has cut it, as it should
                attacks[name](self)
            self.made[name] += 1

    def foreign(self) -> None:
        with connect(self.endpoint) as connection:
            connection.sendall(self.random.choice(sorted(FOREIGN.values())))
            self._perhaps_wait(connection)

    def handshake(self) -> None:
        """A greeting and commands with random bytes and pieces."""
        mechanism = self.random.choice([b"NULL", b"CURVE", b"PLAIN", self.random.randbytes(20)])
        version = bytes([self.random.choice([0, 1, 2, 3, 3, 3, 4, 255]), self.random.choice([0, 1, 255])])
        said = bytearray(b"\xff" + bytes(8) + b"\x7f" + version + mechanism.ljust(20, b"\0") + bytes(32))
        for _ in range(self.random.choice([0, 0, 1, 4])):
            said[self.random.randrange(len(said))] = self.random.randrange(256)
        commands = [b"\x05HELLO" + self.random.randbytes(194), ready(self.random.randbytes(5))[9:], PING[2:]]
        commands += [
            self.random.randbytes(self.random.randrange(200)),
            b"\x05ERROR\x03bad",
            b"\x08INITIATE" + bytes(300),
        ]
        for command in self.random.choices(commands, k=self.random.randrange(4)):
            said += b"\x06" + len(command).to_bytes(8, "big") + command
        with connect(self.endpoint) as connection:
            cut = self.random.randrange(1, len(said) + 1)
            connection.sendall(said[:cut])
            self._perhaps_wait(connection)
            connection.sendall(said[cut:])
            self._perhaps_wait(connection)

    def half_open(self) -> None:
        with connect(self.endpoint) as connection:
            connection.sendall(GREETING[: self.random.randrange(len(GREETING) + 1)])
            time.sleep(self.random.random())

    def claims(self) -> None:
        """Identities that others have, or that the ROUTER would give next."""
        number = 0x6B8B4567 + self.random.randrange(2000)
        identity = self.random.choice([b"x", b"\x00" + number.to_bytes(4, "big"), self.random.randbytes(5)])
        with shake_hands(self.endpoint, identity) as one, shake_hands(self.endpoint, identity) as other:
            one.sendall(b"\x00\x01z")
            other.sendall(b"\x00\x01z" * self.random.choice([1, 1500, 20_000]))
            time.sleep(self.random.choice([0, 0.01, 0.3]))

    def flood(self) -> None:
        with shake_hands(self.endpoint) as connection:
            frame = self.random.choice([b"\x00\x01z", b"\x01\x00", b"\x00\x00", frame_of(b"x" * 300)])
            connection.sendall(frame * self.random.choice([100, 1200, 50_000, 1_000_000]))
            connection.sendall(self.random.choice([PING, SHORT_PING]) * 50)
            time.sleep(self.random.choice([0, 0.001, 0.003]))

    def streams(self) -> None:
        """Opens a stream, asks for batches, and leaves in the middle of the answers."""
        with shake_hands(self.endpoint) as connection:
            hello = messages.Hello(1, "train", 5, "train", 64, 0.1, "uint8", "replace", True, False, 8, 1)
            connection.sendall(frame_of(messages.encode(hello)) * self.random.choice([1, 40]))
            self._perhaps_wait(connection)

    def misuses_keys(self) -> None:
        """An admitted client: two sockets of one identity, of which the second floods, and both reset."""
        assert self._keys is not None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context, context.socket(zmq.DEALER) as one, context.socket(zmq.DEALER) as other:
            for dealer in (one, other):
                dealer.curve_serverkey, dealer.curve_secretkey = self._keys.server, self._keys.secret
                dealer.curve_publickey = zmq.curve_public(self._keys.secret)
                dealer.linger, dealer.sndhwm, dealer.routing_id, dealer.sndtimeo = 0, 0, b"twice", 500
                dealer.immediate = 1
                dealer.connect(self.endpoint)
            one.send(b"z")
            for _ in range(self.random.choice([10, 3000, 30_000])):
                other.send(b"z")
            time.sleep(self.random.choice([0, 0.1]))

    def _perhaps_wait(self, connection: socket.socket) -> None:
        if self.random.random() < 0.5:
            connection.settimeout(self.random.choice([0.001, 0.02, 0.1]))
            with contextlib.suppress(TimeoutError):
                connection.recv(1 << 16)


ATTACKS: dict[str, Attack] = {
    "foreign protocol": Attacker.foreign,
    "random handshake": Attacker.handshake,
    "half-open handshake": Attacker.half_open,
    "claimed identity": Attacker.claims,
    "flood and reset": Attacker.flood,
    "streams left": Attacker.streams,
}
ADMITTED: dict[str, Attack] = {"admitted client": Attacker.misuses_keys}


class Storm:
    """So many attackers at once, from `seed` on, in a `with` block; `made` counts connections, or pairs of them."""

    def __init__(self, endpoint: str, attackers: int, seed: int = 0, keys: ClientKeys | None = None) -> None:
        self._attackers = [Attacker(endpoint, seed + number, keys) for number in range(attackers)]
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=one.run, args=[self._ended]) for one in self._attackers]

    @property
    def made(self) -> Counter[str]:
        return sum((one.made for one in self._attackers), Counter[str]())

    def __enter__(self) -> "Storm":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
