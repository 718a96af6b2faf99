"""Names of a split's records in its LMDB, in blocks: one small read a name, and few keys beside the records'.

"names" + the block's first record, 8 bytes    msgpack list of its records' names, bytes
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from common.names import MOST_BYTES

NAMES = b"names"
_RECORDS = 256  # of a block at most
_LONGEST = _RECORDS * (MOST_BYTES + 8)  # bytes: a longer one is a damaged length


class NameBlock(NamedTuple):
    first: int
    names: Sequence[bytes]

    def name(self, record: int) -> bytes | None:
        return self.names[record - self.first] if 0 <= record - self.first < len(self.names) else None


NO_NAMES = NameBlock(0, ())


def name_blocks(first: int, names: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each block that names the records from `first` on."""
    for at in range(0, len(names), _RECORDS):
        yield _key(first + at), msgpack.packb(names[at : at + _RECORDS])


def find_block(cursor: Any, record: int) -> NameBlock:
    """The block at or before `record`; NO_NAMES if it is damaged. `cursor` is LMDB's."""
    found = cursor.set_range(_key(record))
    if not (found and bytes(cursor.key()) == _key(record)):
        found = cursor.prev() if found else cursor.last()
    key, value = bytes(cursor.key()), cursor.value()
    if not (found and key.startswith(NAMES) and len(value) <= _LONGEST):
        return NO_NAMES
    try:
        names = msgpack.unpackb(value)
    except Exception:  # msgpack raises a dozen types
        return NO_NAMES
    sound = type(names) is list and all(type(name) is bytes and len(name) <= MOST_BYTES for name in names)
    return NameBlock(int.from_bytes(key[len(NAMES) :], "big"), names) if sound else NO_NAMES


def _key(record: int) -> bytes:
    return NAMES + record.to_bytes(8, "big")
