"""One read a record, at its place in the file, and asking the disk for records before they are needed."""

import contextlib
import functools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.data_file import DataFile
from loader.lmdb_pages import Places
from loader.records import HEAD

_AROUND = 1 << 17  # bytes that a disk reads at a time if all will stay in memory


class DirectReads:
    """Reads `file`, an LMDB of `records` records whose newest transaction is `snapshot`, past LMDB."""

    def __init__(self, file: DataFile, records: int, snapshot: int) -> None:
        self._file = file
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)  # a read is of what is asked for, and no more
        self._places = Places.of(file, records, snapshot)

    def find(self, records: npt.NDArray[np.integer[Any]]) -> None:
        if self._places is not None:
            self._places.find(records)

    def advise(self, records: npt.NDArray[np.integer[Any]]) -> None:
        if self._places is None:
            return
        size = _AROUND if self._stays_in_memory else 1
        with contextlib.suppress(OSError):  # it was only advice
            for offset, length in self._places.of_all(records):
                begin, end = offset // size * size, -(-(offset + length) // size) * size
                os.posix_fadvise(self._file.fd, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def value(self, record: int) -> bytes | None:
        """The record's bytes; None if its place was not found, or they are not all there."""
        place = self._places.of_record(record) if self._places is not None else None
        if place is None:
            return None
        offset, length = place
        try:
            value = os.pread(self._file.fd, length, offset)
        except OSError:
            return None
        return value if len(value) == length >= HEAD.size else None

    @functools.cached_property
    def _stays_in_memory(self) -> bool:
        return self._file.fits_in_memory()
