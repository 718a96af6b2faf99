"""Slab: anonymous shared memory of equal slots, each holding one batch.

    first page   nonce, 16 bytes: proof to a client that it has mapped the right memory
    slot         head: room for a reply's header | pixels: count x height x width x 3 | notes: count x NOTE

Its size is sealed: shrinking would end every reader with SIGBUS.
"""

import fcntl
import mmap
import os
from typing import NamedTuple

import numpy as np

from ..spec import StreamSpec

KEPT = 1  # batches a caller may hold while requesting the next: the slab has slots for no more
_PAGE = mmap.PAGESIZE
_HEAD = 1 << 14  # bytes before the pixels: header and pixels go over a socket as one piece, without a copy
NONCE_BYTES = 16
_NAME = "alexnet-slab"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_REASONS_BYTES = 1 << 19  # of one batch, so that its header holds them

# Of one image: record and label; digest, if asked for; the corrupt record it replaces and why, or b"".
NOTE = np.dtype([("record", "<u4"), ("label", "<u4"), ("digest", "<u8"), ("bad_record", "<u4"), ("reason", "S76")])


class Replaced(NamedTuple):
    """A position whose own record is corrupt, and why; `Batch.records` names the record used instead."""

    position: int
    record: int
    reason: str


def slot_bytes(spec: StreamSpec, batch_size: int) -> int:
    """Bytes of one slot, in whole pages."""
    payload = batch_size * (spec.image_bytes + NOTE.itemsize)
    return _HEAD + -(-payload // _PAGE) * _PAGE


NOT_BEGUN = 2**32 - 1  # no record has this number


class Slab:
    """Shared memory of the descriptor `fd`, which it owns: `slots` slots of `size` bytes."""

    def __init__(self, fd: int, size: int, slots: int) -> None:
        self.fd, self.size, self.slots = fd, size, slots
        self._memory = mmap.mmap(fd, _PAGE + size * slots)

    @classmethod
    def create(cls, size: int, slots: int) -> "Slab":
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _PAGE + size * slots)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
        slab = cls(fd, size, slots)
        slab._memory[:NONCE_BYTES] = os.urandom(NONCE_BYTES)
        return slab

    @classmethod
    def of_process(cls, pid: int, fd: int, size: int, slots: int, nonce: bytes) -> "Slab":
        """Map the slab that is descriptor `fd` of process `pid`. Raises OSError if it is out of reach."""
        path = f"/proc/{pid}/fd/{fd}"
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):
            raise OSError("it is not a slab on this host")
        ours = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(ours).st_size != _PAGE + size * slots or os.pread(ours, NONCE_BYTES, 0) != nonce:
                raise OSError("it is another process's memory")
            if fcntl.fcntl(ours, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise OSError("its size is not sealed")
            return cls(ours, size, slots)
        except OSError:
            os.close(ours)
            raise

    @property
    def memory(self) -> memoryview:
        return memoryview(self._memory)

    @property
    def total_bytes(self) -> int:
        return self.size * self.slots

    @property
    def nonce(self) -> bytes:
        return self._memory[:NONCE_BYTES]

    def pixels(self, slot: int, spec: StreamSpec, count: int) -> memoryview:
        """As `SlotBatch.pixels`."""
        start = _PAGE + slot * self.size + _HEAD
        return memoryview(self._memory)[start : start + count * spec.image_bytes]

    def batch(self, slot: int, spec: StreamSpec, count: int) -> "SlotBatch":
        start = _PAGE + slot * self.size
        return SlotBatch(memoryview(self._memory)[start : start + self.size], spec, count, _HEAD)

    def close(self) -> None:
        """Close the descriptor; the memory goes with its last view."""
        os.close(self.fd)


class SlotBatch:
    """One slot, viewed as a batch.

    pixels    bytes of all images, in C order
    images    count x height x width x 3, uint8 or float32
    notes     count, of dtype NOTE
    """

    def __init__(self, slot: memoryview, spec: StreamSpec, count: int, head: int = 0) -> None:
        end = head + count * spec.image_bytes
        self._slot, self._head = slot, head
        self.pixels = slot[head:end]
        self.images = np.frombuffer(self.pixels, spec.dtype).reshape(count, *spec.image_shape)
        self.notes = np.frombuffer(slot[end : end + count * NOTE.itemsize], NOTE)
        self._records = self.notes["record"]

    def behind(self, header: bytes) -> bytes | memoryview:
        """Header and pixels in one piece, without a copy if the header fits in the head."""
        if len(header) > self._head:
            return header + self.pixels
        start = self._head - len(header)
        self._slot[start : self._head] = header
        return self._slot[start : self._head + len(self.pixels)]

    def begin(self) -> None:
        self.notes["record"], self.notes["reason"] = NOT_BEGUN, b""

    def note_begun(self, index: int, record: int) -> None:
        """Note the record in progress, to blame a crash on."""
        self._records[index] = record

    def in_progress_record(self) -> int | None:
        begun = self.notes["record"][self.notes["record"] != NOT_BEGUN]
        return int(begun[-1]) if len(begun) else None

    def note_replaced(self, index: int, bad_record: int, reason: str) -> None:
        self.notes["bad_record"][index], self.notes["reason"][index] = bad_record, reason.encode(errors="replace")

    def replaced(self, first: int) -> list[Replaced]:
        reasons = self.notes["reason"].tolist()
        places = [at for at, reason in enumerate(reasons) if reason]
        longest = _REASONS_BYTES // max(1, len(places))
        return [
            Replaced(first + at, int(self.notes["bad_record"][at]), reasons[at][:longest].decode(errors="replace"))
            for at in places
        ]
