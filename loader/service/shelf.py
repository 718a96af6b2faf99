"""One decode for several clients: sessions of one stream are companions, and share a shelf.

No client maps the shelf: one that writes to a lent batch, or is stopped while it holds one, harms nobody else.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.spec import StreamSpec
from common.wire.slab import Slab
from loader.service.session import Key, Session
from loader.workers.link import Place


@dataclass(slots=True)
class _Batch:
    """A batch in a slot: being filled, or filled and copied by so many workers."""

    slot: int
    filled: bool = False
    readers: int = 0


class Shelf:
    """The latest batches of one stream. The oldest that no worker reads makes room for the next."""

    def __init__(self, number: int, size: int, slots: int) -> None:
        self.number, self.slab = number, Slab.create(size, slots)
        self._free = list(range(slots))
        self._batches: dict[Key, _Batch] = {}  # oldest first

    def is_filling(self, key: Key) -> bool:
        batch = self._batches.get(key)
        return batch is not None and not batch.filled

    def reserve(self, key: Key) -> Place | None:
        """A slot to fill with the batch, until `end_fill`; None if all are being filled or read."""
        if not self._free:
            idle = (key for key, batch in self._batches.items() if batch.filled and not batch.readers)
            if (oldest := next(idle, None)) is None:
                return None
            self._free.append(self._batches.pop(oldest).slot)
        self._batches[key] = _Batch(self._free.pop())
        return Place(self.number, self._batches[key].slot)

    def end_fill(self, slot: int, *, filled: bool) -> None:
        """Keep the batch, or free its slot if the fill failed."""
        key, batch = self._in_slot(slot)
        batch.filled = filled
        if not filled:
            del self._batches[key]
            self._free.append(slot)

    def begin_copy(self, key: Key) -> Place | None:
        """The slot that holds the batch, safe to read until `end_copy`; None if none does."""
        batch = self._batches.get(key)
        if batch is None or not batch.filled:
            return None
        batch.readers += 1
        return Place(self.number, batch.slot)

    def end_copy(self, slot: int) -> None:
        self._in_slot(slot)[1].readers -= 1

    def _in_slot(self, slot: int) -> tuple[Key, _Batch]:
        return next((key, batch) for key, batch in self._batches.items() if batch.slot == slot)


_Stream = tuple[StreamSpec, int, bool]  # with batch size and digests


class Companions:
    """Sessions by stream, and the shelf of each stream that has several.

    numbers   of slabs
    forget    is called with the number of a shelf's slab that is closed
    """

    def __init__(self, numbers: Iterator[int], forget: Callable[[int], None]) -> None:
        self._numbers, self._forget = numbers, forget
        self._sessions: defaultdict[_Stream, list[Session]] = defaultdict(list)
        self._shelves: dict[_Stream, Shelf] = {}

    @property
    def taken_bytes(self) -> int:
        return sum(shelf.slab.total_bytes for shelf in self._shelves.values())

    def of(self, session: Session) -> list[Session]:
        """The other sessions of its stream."""
        return [other for other in self._sessions[_stream(session)] if other is not session]

    def shelf(self, session: Session) -> Shelf | None:
        return self._shelves.get(_stream(session))

    def shelf_of_slab(self, number: int) -> Shelf | None:
        return next((shelf for shelf in self._shelves.values() if shelf.number == number), None)

    def join(self, session: Session, room: int) -> None:
        """Add a session. The first companion brings a shelf of as many slots as a session has, or as `room` bytes
        hold.
        """
        stream, slab = _stream(session), session.slab
        self._sessions[stream].append(session)
        slots = min(slab.slots, room // slab.size)
        if len(self._sessions[stream]) > 1 and stream not in self._shelves and slots > 0:
            with contextlib.suppress(OSError):  # without memory or descriptors for it there is none
                self._shelves[stream] = Shelf(next(self._numbers), slab.size, slots)

    def leave(self, session: Session) -> None:
        stream = _stream(session)
        self._sessions[stream].remove(session)
        if len(self._sessions[stream]) < 2:
            self._close(stream)
        if not self._sessions[stream]:
            del self._sessions[stream]

    def shrink(self, room: int) -> None:
        """Close shelves, the oldest first, until they fit into `room` bytes."""
        for stream in list(self._shelves):
            if self.taken_bytes > room:
                self._close(stream)

    def _close(self, stream: _Stream) -> None:
        if (shelf := self._shelves.pop(stream, None)) is not None:
            self._forget(shelf.number)
            shelf.slab.close()


def _stream(session: Session) -> _Stream:
    return session.spec, session.batch_size, session.digests
