"""Decoded images of a split's first records, in memory that the workers share.

first page   limit, uint32: records below it may be kept
flags        a byte a record: 1 once its label and image are whole
labels       uint32 a record
images       256 x 256 x 3 bytes a record, from a whole page on
"""

# A worker killed while it writes leaves the flag unset; two write the same bytes. All write by system calls, whose
# locks order an image before its flag on every processor. That a flag is read before its image needs no fence: no
# processor holds a load back over the thousands of instructions between.
#
# An image is read or written only within the fill that found its flag or the limit: memory that the service gives back
# is in use until the fills that were under way have ended (loader/service/withdrawal.py).

import mmap
import os

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE
from loader.workers.huge import anonymous_file

IMAGE_BYTES = STORED_SIZE * STORED_SIZE * 3
_PAGE = mmap.PAGESIZE

Bytes = npt.NDArray[np.uint8]


class KeptImages:
    """Room for the images of records 0..records - 1 in the file descriptor `fd`, which it owns."""

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
        """Raises OSError."""
        fd = anonymous_file("alexnet-kept", _layout(records)[-1])
        try:
            return cls(fd, records)
        except OSError:
            os.close(fd)
            raise

    def label(self, record: int) -> int | None:
        """The label if the image is kept."""
        return self._labels[record] if record < self.records and self._flags[record] else None

    def image(self, record: int) -> Bytes:
        """256x256x3 RGB, read-only."""
        image: Bytes = self._images[record]
        return image

    def write(self, record: int, rgb: Bytes) -> bool:
        """Write an image, for `publish`; return False if there is no room."""
        if record >= self._limit[0]:
            return False
        try:
            return os.pwrite(self.fd, rgb.data, self._images_at + record * IMAGE_BYTES) == IMAGE_BYTES
        except OSError:
            return False

    def publish(self, record: int, label: int) -> None:
        os.pwrite(self.fd, label.to_bytes(4, "little"), self._labels_at + 4 * record)
        os.pwrite(self.fd, b"\1", _PAGE + record)

    @property
    def missing(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.frombuffer(self._flags, np.uint8) == 0)

    @property
    def held(self) -> int:
        """Images kept."""
        return int(np.count_nonzero(np.frombuffer(self._flags, np.uint8)))

    @property
    def taken(self) -> int:
        """Bytes of memory."""
        return os.fstat(self.fd).st_blocks * 512

    def allow(self, limit: int) -> None:
        """Let workers keep the images of records below `limit`."""
        os.pwrite(self.fd, limit.to_bytes(4, "little"), 0)

    def tail(self, images: int) -> int:
        """The record from which on so many images are kept, or 0."""
        present = np.flatnonzero(np.frombuffer(self._flags, np.uint8))
        return int(present[-images]) if 0 < images <= len(present) else 0

    def withdraw(self, first: int) -> int:
        """Unset the flags of records from `first` on; return how many were set."""
        were_set = int(np.count_nonzero(np.frombuffer(self._flags, np.uint8)[first:]))
        os.pwrite(self.fd, bytes(self.records - first), _PAGE + first)
        return were_set

    def give_back(self, first: int) -> None:
        """Give back the memory of images from record `first` on, which nobody reads or writes. Raises OSError."""
        at = self._images_at + first * IMAGE_BYTES
        with mmap.mmap(self.fd, (self.records - first) * IMAGE_BYTES, offset=at) as memory:
            memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Close the descriptor; views stay valid."""
        os.close(self.fd)


def _layout(records: int) -> tuple[int, int, int]:
    """Offsets of labels and images; the whole size."""
    labels = _PAGE + -(-records // 4) * 4
    images = -(-(labels + 4 * records) // _PAGE) * _PAGE
    return labels, images, images + records * IMAGE_BYTES
