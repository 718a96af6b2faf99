"""Decoded images kept: shared memory for a split's first records, each written by a worker that decodes it.

    limit    uint32, in a page of its own: records below it may be kept
    flags    a byte a record: 1 once its label and image are whole
    labels   uint32 a record
    images   256 x 256 x 3 bytes a record, from a whole page on

An epoch's order is random, so the first records are a fair sample of every batch; it reads each once, so nothing is
gained by evicting any. A worker killed while it writes leaves the flag unset; two write the same bytes. Anonymous, its
size sealed, like a slab (`common/wire/slab.py`); never lent to clients.
"""

import contextlib
import fcntl
import mmap
import os

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE

IMAGE_BYTES = STORED_SIZE * STORED_SIZE * 3
_PAGE = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

Bytes = npt.NDArray[np.uint8]


class KeptImages:
    """Room for the images of records 0..records - 1 in the memory of the file descriptor `fd`, which it owns.

    It is mapped read-only. Written by system calls, whose locks order an image before its flag on every processor; that
    a flag is read before its image needs none, for none holds a load back over the thousands of instructions between.
    """

    def __init__(self, fd: int, records: int) -> None:
        self.fd, self.records = fd, records
        self._labels_at, self._images_at, size = _layout(records)
        memory = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
        self._limit = memory[:4].cast("I")
        self._flags = memory[_PAGE : _PAGE + records]
        self._labels = memory[self._labels_at : self._labels_at + 4 * records].cast("I")
        self._images = np.frombuffer(memory, np.uint8, offset=self._images_at).reshape(-1, STORED_SIZE, STORED_SIZE, 3)

    @classmethod
    def create(cls, records: int) -> "KeptImages":
        """Raises OSError if there is no address space or descriptor for it. Memory is taken as images come."""
        with contextlib.ExitStack() as undo:
            fd = os.memfd_create("alexnet-kept", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, fd)
            os.ftruncate(fd, _layout(records)[-1])
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            kept = cls(fd, records)
            undo.pop_all()
        return kept

    def label(self, record: int) -> int | None:
        """The record's label if its image is kept."""
        return self._labels[record] if record < self.records and self._flags[record] else None

    def image(self, record: int) -> Bytes:
        """A kept image, 256x256x3 RGB, read-only."""
        image: Bytes = self._images[record]
        return image

    def write(self, record: int, rgb: Bytes) -> bool:
        """Write the image of a record below the limit, if there is memory; `publish` lets others read it."""
        if record >= self._limit[0]:
            return False
        try:
            return os.pwrite(self.fd, rgb.data, self._images_at + record * IMAGE_BYTES) == IMAGE_BYTES
        except OSError:
            return False

    def publish(self, record: int, label: int) -> None:
        """Let every worker read an image that is written."""
        os.pwrite(self.fd, label.to_bytes(4, "little"), self._labels_at + 4 * record)
        os.pwrite(self.fd, b"\1", _PAGE + record)

    @property
    def missing(self) -> npt.NDArray[np.intp]:
        """Records whose images are not kept yet."""
        return np.flatnonzero(np.frombuffer(self._flags, np.uint8) == 0)

    def allow(self, images: int) -> int:
        """Let workers keep up to so many more; returns how many that can be."""
        missing = self.missing
        limit = int(missing[images]) if images < len(missing) else self.records
        os.pwrite(self.fd, limit.to_bytes(4, "little"), 0)
        return min(images, len(missing))

    def close(self) -> None:
        """Close the descriptor; the memory goes with this object and its last view."""
        os.close(self.fd)


def _layout(records: int) -> tuple[int, int, int]:
    """Offsets of labels and images, and the size of it all."""
    labels = _PAGE + -(-records // 4) * 4
    images = -(-(labels + 4 * records) // _PAGE) * _PAGE
    return labels, images, images + records * IMAGE_BYTES
