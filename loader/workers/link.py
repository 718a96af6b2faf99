"""Messages between the service and a worker, over a socket pair that no other process can reach.

SOCK_SEQPACKET keeps message boundaries and carries file descriptors; its end-of-file tells that the other side died.
"""

import os
import socket
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import msgpack

from common.spec import StreamSpec
from loader.data_file import Version

_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Open:
    """To the worker, with a file's descriptor: read this split from it, whatever `path` names by now.

    Sent again if the file was touched and is the same dataset at another version.
    """

    kind: ClassVar[str] = "open"
    split: str
    path: bytes  # for messages
    decoder: str  # announced
    digest: bytes
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, split: str, path: Path, decoder: str, version: Version) -> "Open":
        return cls(split, os.fsencode(path), decoder, *astuple(version))

    @property
    def version(self) -> Version:
        return Version(self.digest, self.size, self.modified_ns, self.changed_ns)


@dataclass(frozen=True, slots=True)
class Keep:
    """To the worker, with the descriptor of `KeptImages`: keep this split's there, and read them from it."""

    kind: ClassVar[str] = "keep"
    split: str
    records: int


@dataclass(frozen=True, slots=True)
class Attach:
    """To the worker, with a slab's descriptor: map it, under this number."""

    kind: ClassVar[str] = "attach"
    slab: int
    size: int
    slots: int


@dataclass(frozen=True, slots=True)
class Detach:
    """To the worker: unmap a slab, whose client is gone."""

    kind: ClassVar[str] = "detach"
    slab: int


class Place(NamedTuple):
    """A slot of a slab."""

    slab: int
    slot: int


@dataclass(frozen=True, slots=True)
class Fill:
    """To the worker: fill all `places`, of several clients, with these positions of an epoch."""

    kind: ClassVar[str] = "fill"
    places: tuple[Place, ...]
    spec: StreamSpec
    digests: bool
    epoch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Copy:
    """To the worker: fill all `places` with the `count` images and notes of `source`."""

    kind: ClassVar[str] = "copy"
    places: tuple[Place, ...]
    spec: StreamSpec
    count: int
    source: Place


Task = Fill | Copy


@dataclass(frozen=True, slots=True)
class Expect:
    """To the worker: the records at these positions will be needed soon, in some worker."""

    kind: ClassVar[str] = "expect"
    spec: StreamSpec
    epoch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: it is idle for the first time."""

    kind: ClassVar[str] = "ready"


@dataclass(frozen=True, slots=True)
class Filled:
    """From the worker: the task is done; microseconds by stage, images decoded."""

    kind: ClassVar[str] = "filled"
    read_us: int
    decode_us: int
    augment_us: int
    decoded: int


@dataclass(frozen=True, slots=True)
class Touched:
    """From the worker: the file of the task's split was written to; the task is undone."""

    kind: ClassVar[str] = "touched"


@dataclass(frozen=True, slots=True)
class Compared:
    """From the verifier: so many records of the file have been read; the last time, all are those of the dataset."""

    kind: ClassVar[str] = "compared"
    records: int
    all: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker: the batch cannot be made, and why; `record` is the corrupt one, if that is why."""

    kind: ClassVar[str] = "failed"
    record: int | None
    reason: str


Message = Open | Keep | Attach | Detach | Fill | Copy | Expect | Ready | Filled | Touched | Compared | Failed
_KINDS: dict[str, type[Message]] = {kind.kind: kind for kind in get_args(Message)}


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(other: socket.socket, message: Message, fd: int | None = None) -> None:
    """Raises OSError if the other side is gone."""
    packed = msgpack.packb([message.kind, *_fields(message)], default=_fields)
    if fd is None:
        other.send(packed)
    else:
        socket.send_fds(other, [packed], [fd])


def receive(other: socket.socket) -> tuple[Message, int | None] | None:
    """Wait for the next message and its descriptor; None if the other side is gone."""
    try:
        packed, fds, _, _ = socket.recv_fds(other, _LONGEST, 1)
    except ConnectionError:
        return None
    if not packed:
        return None
    kind, *values = msgpack.unpackb(packed)
    return _KINDS[kind](*map(_revived, values)), (fds[0] if fds else None)


def _fields(of: Message | StreamSpec) -> list[Any]:
    return [getattr(of, name) for name in of.__match_args__]  # astuple would copy each deeply


def _revived(value: Any) -> Any:
    """An array as what it was: a StreamSpec, a Place, or several."""
    if not isinstance(value, list):
        return value
    if isinstance(value[0], str):
        return StreamSpec(*value)
    return Place(*value) if isinstance(value[0], int) else tuple(Place(*place) for place in value)
