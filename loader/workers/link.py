"""The words between the service and one worker, over a pair of sockets that no other process can reach.

The socket keeps message boundaries (SOCK_SEQPACKET) and carries the slab's file descriptor; its end-of-file tells
either side that the other has died. Messages are small msgpack arrays; pixels are never among them.
"""

import socket
from dataclasses import astuple, dataclass
from typing import ClassVar

import msgpack

from common.spec import StreamSpec
from loader.data_file import Version

_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Open:
    """To the worker, with the file's descriptor: read this split from it, whatever its path names by now."""

    kind: ClassVar[str] = "open"
    split: str
    path: bytes  # for messages
    decoder: str  # announced
    digest: bytes
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def version(self) -> Version:
        return Version(self.digest, self.size, self.modified_ns, self.changed_ns)


@dataclass(frozen=True, slots=True)
class Attach:
    """To the worker, with the slab's descriptor: map this slab, under this number."""

    kind: ClassVar[str] = "attach"
    slab: int
    size: int
    slots: int


@dataclass(frozen=True, slots=True)
class Detach:
    """To the worker: the slab's client is gone."""

    kind: ClassVar[str] = "detach"
    slab: int


@dataclass(frozen=True, slots=True)
class Fill:
    """To the worker: fill a slot with these positions of an epoch."""

    kind: ClassVar[str] = "fill"
    slab: int
    slot: int
    spec: StreamSpec
    digests: bool
    epoch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: it can take work."""

    kind: ClassVar[str] = "ready"


@dataclass(frozen=True, slots=True)
class Filled:
    """From the worker: the slot is complete, and what its time went to, in microseconds."""

    kind: ClassVar[str] = "filled"
    read_us: int
    decode_us: int
    augment_us: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker: the batch cannot be filled, and why; `record` is the corrupt one, if that is why."""

    kind: ClassVar[str] = "failed"
    record: int | None
    reason: str


Word = Open | Attach | Detach | Fill | Ready | Filled | Failed
_WORDS: dict[str, type[Word]] = {word.kind: word for word in (Open, Attach, Detach, Fill, Ready, Filled, Failed)}


def pair() -> tuple[socket.socket, socket.socket]:
    """The service's end and the worker's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, word: Word, fd: int | None = None) -> None:
    """Send one word, and a file descriptor with it. OSError where the other side is gone."""
    message = msgpack.packb([word.kind, *astuple(word)])
    if fd is None:
        end.send(message)
    else:
        socket.send_fds(end, [message], [fd])


def receive(end: socket.socket) -> tuple[Word, int | None] | None:
    """The next word and the descriptor that came with it; None where the other side is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(end, _LONGEST, 1)
    except ConnectionError:
        return None
    if not message:
        return None
    kind, *values = msgpack.unpackb(message)
    # The one array in a message is a StreamSpec.
    values = [StreamSpec(*value) if isinstance(value, list) else value for value in values]
    return _WORDS[kind](*values), (fds[0] if fds else None)
