"""Messages between client and service.

A message is a header, followed by a payload in two kinds (`framed`). The header is a msgpack array `[version, kind,
field, field, ...]`, its fields in the order of the kind's dataclass. Each field is checked for type and range before
anything is built from it.

    HELLO    client -> service   opens a stream: its specification, its largest batch, its ranks
    WELCOME  service -> client   the stream's id, dataset, credit and slab; payload: the mean image
    TICKET   client -> service   "epoch 3, positions 1280..1407", under a number; acknowledgements
    BATCH    service -> client   records, labels, replaced positions, stage times; pixels: a slot or a payload
    FAULT    service -> client   why a HELLO or a TICKET failed
    ASK      client -> service   asks for the names of some records
    NAMES    service -> client   those names
    PING     client -> service   asks for a PONG
    PONG     service -> client   instance and load
    BYE      client -> service   closes the stream
"""

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import Any, ClassVar

import msgpack

from ..errors import VersionMismatch, WireError
from ..names import MOST_BYTES
from ..ranges import (
    BATCH_SIZES,
    CLASS_NAME_CHARACTERS,
    CLASS_NAMES_BYTES,
    CROPS,
    EPOCHS,
    MOST_CLASSES,
    RANKS,
    RECORDS,
    SEEDS,
    SIGMAS,
)
from ..spec import StreamSpec
from . import fields

VERSION = 7
MAX_FAULT_REASON = 1024  # characters of a FAULT, the longest of all strings
MAX_HEADER_BYTES = CLASS_NAMES_BYTES + (1 << 12)  # class names of a large dataset fit; a flood does not

ALIGNMENT = 64  # of a payload in its frame, in bytes
_FRAMED = 0xC1  # never used in msgpack
_PREFIX = struct.Struct("<B3xI")


class Message:
    """One message; `kind` is its name on the wire, `payloads` the number of frames behind the header."""

    kind: ClassVar[str]

    @property
    def payloads(self) -> int:
        return 0


NO_RECORD = -1
NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class Hello(Message):
    kind: ClassVar[str] = "HELLO"
    request: int = fields.integer(0, 2**63 - 1)  # the client's number for the stream, echoed in the answer
    # The fields of StreamSpec, under their names:
    split: str = fields.text(16)
    seed: int = fields.integer(*SEEDS)
    view: str = fields.text(16)
    crop: int = fields.integer(*CROPS)
    sigma: float = fields.number(*SIGMAS)
    pixels: str = fields.text(16)
    on_bad_record: str = fields.text(16)
    shuffle: bool = fields.flag()
    digests: bool = fields.flag()  # True if each BATCH shall carry them
    batch_size: int = fields.integer(*BATCH_SIZES)
    ranks: int = fields.integer(*RANKS)  # streams that share each batch, and the credit of one

    @classmethod
    def of(cls, request: int, spec: StreamSpec, *, digests: bool, batch_size: int, ranks: int = 1) -> "Hello":
        return cls(request, **asdict(spec), digests=digests, batch_size=batch_size, ranks=ranks)

    @property
    def spec(self) -> StreamSpec:
        """Raises UsageError if there is no such stream."""
        return StreamSpec(**{field.name: getattr(self, field.name) for field in fields_of(StreamSpec)})


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    kind: ClassVar[str] = "WELCOME"
    request: int = fields.integer(0, 2**63 - 1)
    stream: bytes = fields.binary(16, 16)
    instance: bytes = fields.binary(8, 8)  # of this run of the service: another run has none of its state
    records: int = fields.integer(1, fields.MAX_RECORD)
    classes: list[str] = fields.names(MOST_CLASSES, CLASS_NAME_CHARACTERS)  # noqa: RUF009
    digest: bytes = fields.binary(16, 16)
    decoder: str = fields.text(256)
    workers: int = fields.integer(1, 4096)
    cores: int = fields.integer(1, fields.MAX_CORES)  # that the service may use
    credit: int = fields.integer(1, fields.MAX_SLOTS)  # in batches of the HELLO's size
    slab_process: int = fields.integer(1, 2**31 - 1)
    slab_fd: int = fields.integer(0, 2**31 - 1)
    slab_nonce: bytes = fields.binary(16, 16)
    slots: int = fields.integer(1, fields.MAX_SLOTS)
    slot_bytes: int = fields.integer(1, 2**40)

    @property
    def payloads(self) -> int:
        """The mean image, float32 256x256x3."""
        return 1


@dataclass(frozen=True, slots=True)
class Ticket(Message):
    kind: ClassVar[str] = "TICKET"
    number: int = fields.integer(0, 2**63 - 1)  # the same in a retry
    stream: bytes = fields.binary(16, 16)
    epoch: int = fields.integer(*EPOCHS)
    first: int = fields.integer(*RECORDS)
    count: int = fields.integer(*BATCH_SIZES)
    by_slot: bool = fields.flag()  # True if the client has mapped the slab: reply with a slot, not with pixels
    oldest: int = fields.integer(0, 2**63 - 1)  # acknowledges every lower number, and its slot
    done: bytes = fields.words(fields.MAX_SLOTS)  # and these: little-endian uint32, a ticket's number less `oldest`


@dataclass(frozen=True, slots=True)
class BatchReply(Message):
    kind: ClassVar[str] = "BATCH"
    number: int = fields.integer(0, 2**63 - 1)
    stream: bytes = fields.binary(16, 16)
    records: bytes = fields.binary(4, 4 * fields.MAX_COUNT)  # little-endian uint32
    labels: bytes = fields.binary(4, 4 * fields.MAX_COUNT)  # little-endian uint32
    slot: int = fields.integer(NO_SLOT, fields.MAX_SLOTS - 1)
    slab: bytes = fields.binary(0, 16)  # nonce of the slot's slab: a reply from before another WELCOME is stale
    digests: bytes = fields.binary(0, 8 * fields.MAX_COUNT)  # little-endian uint64; empty unless asked for
    replaced: Sequence[tuple[int, int, str]] = fields.replaced(fields.MAX_COUNT)
    stages: Sequence[int] = fields.durations()  # see `fields.StageTimes`
    decoded: int = fields.integer(0, fields.MAX_COUNT)  # images decoded for this ticket; the others came decoded

    @property
    def payloads(self) -> int:
        """The pixels, n x height x width x 3 of the stream's dtype, unless a slot holds them."""
        return 1 if self.slot == NO_SLOT else 0


UNKNOWN_STREAM = "unknown stream"
NO_SUCH_SPLIT = "no such split"
REFUSED = "refused"
BAD_RECORD = "bad record"
BAD_DATASET = "bad dataset"  # this service cannot read the split: another one may
VERSION_MISMATCH = "version"
NO_ACCESS = "no access"


@dataclass(frozen=True, slots=True)
class Fault(Message):
    kind: ClassVar[str] = "FAULT"
    number: int = fields.integer(-1, 2**63 - 1)  # of the HELLO or TICKET; -1 if it could not be read
    stream: bytes = fields.binary(0, 16)  # empty for a HELLO
    code: str = fields.text(32)
    reason: str = fields.text(MAX_FAULT_REASON)
    record: int = fields.integer(NO_RECORD, fields.MAX_RECORD)


@dataclass(frozen=True, slots=True)
class AskNames(Message):
    kind: ClassVar[str] = "ASK"
    number: int = fields.integer(0, 2**63 - 1)  # the client's, echoed in the answer
    stream: bytes = fields.binary(16, 16)
    records: bytes = fields.words(fields.MAX_NAMES)  # little-endian uint32


@dataclass(frozen=True, slots=True)
class NamesReply(Message):
    kind: ClassVar[str] = "NAMES"
    number: int = fields.integer(0, 2**63 - 1)
    stream: bytes = fields.binary(16, 16)
    # In the order asked for, empty if unknown:
    names: list[bytes] = fields.binaries(fields.MAX_NAMES, MOST_BYTES)  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Ping(Message):
    kind: ClassVar[str] = "PING"


@dataclass(frozen=True, slots=True)
class Pong(Message):
    kind: ClassVar[str] = "PONG"
    instance: bytes = fields.binary(8, 8)
    workers: int = fields.integer(0, 4096)
    cores: int = fields.integer(1, fields.MAX_CORES)
    waiting: int = fields.integer(0, 2**31 - 1)  # tickets queued, of all clients


@dataclass(frozen=True, slots=True)
class Bye(Message):
    kind: ClassVar[str] = "BYE"
    stream: bytes = fields.binary(16, 16)


_KINDS: dict[str, type[Message]] = {
    kind.kind: kind for kind in (Hello, Welcome, Ticket, BatchReply, Fault, AskNames, NamesReply, Ping, Pong, Bye)
}
_FIELDS = {  # names and checks
    kind: [(of.name, of.metadata["check"]) for of in fields_of(message)]  # type: ignore[arg-type]
    for kind, message in _KINDS.items()
}


def encode(message: Message) -> bytes:
    values = [getattr(message, name) for name, _ in _FIELDS[message.kind]]
    header: bytes = msgpack.packb([VERSION, message.kind, *values])
    return header


def decode(header: bytes, payloads: int = 0) -> Message:
    """Raises VersionMismatch, or WireError."""
    refuse_long_header(len(header))
    try:
        values = msgpack.unpackb(header, max_str_len=MAX_FAULT_REASON, max_bin_len=8 * fields.MAX_COUNT)
    except Exception as error:  # msgpack raises a dozen types, ValueError and its own among them
        raise WireError(f"the header is not msgpack: {type(error).__name__}") from None
    if type(values) is not list or len(values) < 2 or type(values[0]) is not int:
        raise WireError("the header is not an array of version, kind and fields")
    if values[0] != VERSION:
        raise VersionMismatch(values[0], VERSION)
    return _build(values[1], values[2:], payloads)


def framed(header: bytes) -> bytes:
    """Prefix and header, padded to ALIGNMENT bytes, for a payload to follow in the same frame."""
    prefix = _PREFIX.pack(_FRAMED, len(header))
    return (prefix + header).ljust(-(-(len(prefix) + len(header)) // ALIGNMENT) * ALIGNMENT, b"\0")


def split(frame: memoryview) -> list[memoryview]:
    """The header of a frame, and the payload if any. Raises WireError."""
    if len(frame) < _PREFIX.size or frame[0] != _FRAMED:
        return [frame]
    _, size = _PREFIX.unpack_from(frame)
    refuse_long_header(size)
    behind = -(-(_PREFIX.size + size) // ALIGNMENT) * ALIGNMENT
    if behind > len(frame):
        raise WireError("a frame ends within its header")
    return [frame[_PREFIX.size : _PREFIX.size + size], frame[behind:]]


def refuse_long_header(size: int) -> None:
    if not 0 < size <= MAX_HEADER_BYTES:
        raise WireError(f"a header is 1 to {MAX_HEADER_BYTES} bytes long, not {size}")


def _build(kind: Any, values: list[Any], payloads: int) -> Message:
    message_type = _KINDS.get(kind) if type(kind) is str else None
    if message_type is None:
        raise WireError("unknown kind of message")
    expected = _FIELDS[kind]
    if len(values) != len(expected):
        raise WireError(f"{kind} has {len(expected)} fields, not {len(values)}")
    for value, (name, is_valid) in zip(values, expected, strict=True):
        if not is_valid(value):
            raise WireError(f"{kind}: field {name} is of the wrong type or out of range")
    message = message_type(*values)
    if payloads != message.payloads:
        raise WireError(f"{kind} carries {message.payloads} payload frames, not {payloads}")
    return message
