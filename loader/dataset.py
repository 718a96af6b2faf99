"""A packed split: one LMDB file, written once, read at random.

key                                    value
record 0..n - 1, 8 bytes, big-endian   see `records`
"names" + record, 8 bytes              see `name_blocks`; none in older files
"skipped" + item, 8 bytes              msgpack [name, reason] of an image of the source that was left out
"progress"                             while packing, `meta.Progress`: everything a resumed run needs
"meta"                                 once finished, `meta.Meta`; its presence makes the file a dataset
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgpack
import numpy as np
import numpy.typing as npt

from common.errors import BadImage, DatasetError
from loader import lmdb_file
from loader.data_file import DataFile, Version
from loader.direct_reads import DirectReads
from loader.meta import Meta, Progress
from loader.name_blocks import NO_NAMES, NameBlock, find_block
from loader.records import HEAD, LONGEST, damage, digest_of, extend_chain, fault

META, PROGRESS, SKIPPED = b"meta", b"progress", b"skipped"
_AT_ONCE = 256  # records asked for ahead when all are read in order


class FileTouched(DatasetError):
    """A file was written to, by its times; its records may be the same."""


class SplitFile:
    _env: lmdb_file.Environment
    file: DataFile

    def close(self) -> None:
        self._env.close()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def skipped(self) -> list[tuple[int, str, str]]:
        """Item, name and reason of each image left out."""
        found = []
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            more = cursor.set_range(SKIPPED)
            while more and cursor.key().startswith(SKIPPED):
                name, reason = msgpack.unpackb(cursor.value())
                found.append((int.from_bytes(cursor.key()[len(SKIPPED) :], "big"), name, reason))
                more = cursor.next()
        return found


class Dataset(SplitFile):
    """A finished split, read-only. Open it after a fork or spawn, once in each process.

    version     of the file when it was opened; pass it to another process that reads the same file
    record_bytes   of the file, on average
    colour      float64 3 x 3, row k the k-th component times its standard deviation

    Other attributes are those of `meta.Meta` and `stats.Stats`.
    """

    def __init__(self, path: Path, fd: int | None = None, version: Version | None = None) -> None:
        """Open the file at `path`, or the one behind `fd`, which is taken over.

        Raises DatasetError if it is missing, unfinished, of another format, cut off, or not the dataset of `version`.
        """
        self.path, self.file = path, DataFile(path, fd)
        with contextlib.ExitStack() as undo:
            undo.callback(self.file.close)
            before = self.file.version(b"")  # what is written from here on counts as a change
            self._env = lmdb_file.open_to_read(self.file)
            undo.callback(self._env.close)
            self._transaction = self._env.begin(buffers=True)
            self.meta = self._read_meta()
            if version is not None and version.digest != self.meta.digest:
                raise self._changed()
            undo.pop_all()
        self._sound, self._block = True, NO_NAMES
        meta, stats = self.meta, self.meta.stats
        self.version = version or replace(before, digest=meta.digest)
        self.split, self.records, self.classes, self.digest = meta.split, meta.records, meta.classes, meta.digest
        self.record_bytes = max(1, lmdb_file.bytes_in_use(self._env) // max(1, meta.records))
        self.stats, self.mean_hwc, self.sd, self.components = stats, stats.mean_hwc, stats.sd, stats.components
        self.colour: npt.NDArray[np.float64] = stats.components * stats.sd[:, np.newaxis]

    def _read_meta(self) -> Meta:
        try:
            raw, raw_progress = self._transaction.get(META), self._transaction.get(PROGRESS)
        except lmdb_file.Error as error:
            raise DatasetError(f"{self.path} is damaged: {error!r}; delete it and pack again") from None
        if meta := Meta.parsed(raw, self.path):
            return meta
        if progress := Progress.parsed(raw_progress, self.path):
            done = f"{progress.consumed:,} of {progress.items:,} images"
            raise DatasetError(f"{self.path} is not finished ({done}); run the same alexnet-pack again to resume")
        raise DatasetError(f"{self.path} is not a dataset of alexnet-pack")

    def read(self, record: int) -> tuple[int, bytes]:
        """Label and JPEG. Raises BadImage if the record is damaged, DatasetError if there is none of that number."""
        if not 0 <= record < self.records:
            raise DatasetError(f"{self.path} has no record {record}; it holds 0 to {self.records - 1}")
        reason = None
        for find in (self._by_place, self._by_key):  # what is odd by its place is LMDB's to judge
            if (value := find(record)) is not None:
                label, checksum, jpeg = _parts(value)
                reason = damage(label, checksum, jpeg, len(self.classes))
                if reason is None:
                    return label, jpeg
        raise BadImage(f"damaged: {reason}")

    def name(self, record: int) -> bytes:
        """Path of the file that the record was packed from, below its split's folder; empty if it is not known.

        Raises DatasetError if the file is of another size now. One that was touched is not read whole: the
        service would stand still.
        """
        if not 0 <= record < self.meta.named:
            return b""
        if (name := self._block.name(record)) is None:
            if self.file.size != self.version.size:  # cut off: LMDB's mapping would be a SIGBUS
                raise self._changed()
            self._block = self._block_of(record)
            name = self._block.name(record)
        return name or b""

    def _block_of(self, record: int) -> NameBlock:
        try:
            with self._transaction.cursor() as cursor:
                return find_block(cursor, record)
        except lmdb_file.Error:
            self._renew()
            return NO_NAMES

    def find(self, records: npt.NDArray[np.integer[Any]]) -> None:
        """Find the places of these records, together and so cheaply: `read` is then one read, without LMDB."""
        self._reads.find(records)

    def advise(self, records: npt.NDArray[np.integer[Any]]) -> None:
        """Let the kernel begin to read these records, so that `read` waits less."""
        self._reads.advise(records)

    @functools.cached_property
    def _reads(self) -> DirectReads:
        return DirectReads(self.file, self.records, self._transaction.id())

    def _value(self, record: int) -> bytes:
        """Raises BadImage if the record cannot be found."""
        value = self._by_place(record)
        return self._by_key(record) if value is None else value

    def _by_place(self, record: int) -> bytes | None:
        """The record's bytes in one read; None if LMDB must search."""
        value = self._reads.value(record)
        if value is None:
            self.refuse_changes()  # cut off: LMDB's mapping would be a SIGBUS
        return value

    def _by_key(self, record: int) -> bytes:
        """The record's bytes by LMDB's own search. Raises BadImage if the record cannot be found."""
        try:
            value = self._transaction.get(record.to_bytes(8, "big"))
        except lmdb_file.Error:
            self._renew()
            raise BadImage("damaged: a page of the database") from None
        if value is None or not HEAD.size <= len(value) <= LONGEST:
            raise BadImage("damaged: a page of the database")
        return bytes(value)

    def _renew(self) -> None:
        """Begin a new transaction: after a bad page LMDB reads nothing more in the old one."""
        self._transaction.abort()
        self._transaction = self._env.begin(buffers=True)

    def refuse_changes(self) -> None:
        """Raise DatasetError if the file was written to since `version`: FileTouched if only `compare` can tell whether
        it is still the dataset.

        It costs one system call, unless the file was touched.
        """
        now = self.file.version(self.digest)
        if now == self.version:
            return
        if not (self._sound and now.size == self.version.size and self._digest_noted_now() == self.digest):
            self._sound = False
            raise self._changed()
        if now.modified_ns != self.version.modified_ns:
            raise FileTouched(f"{self.path} was written to while it was read; run the same command again")
        self.version = now

    def _digest_noted_now(self) -> bytes:
        self._renew()
        with contextlib.suppress(lmdb_file.Error, DatasetError):
            return self._read_meta().digest
        return b""

    def accept(self, version: Version) -> None:
        """Go on with the file as it was at `version`, when `compare` found it to be the dataset."""
        self._renew()
        self.version, self._block = version, NO_NAMES

    def compare(self) -> Iterator[int]:
        """Yield how many records were read, now and then, of all. Raises DatasetError at the end if they are not those
        of the digest; what of a JPEG alone is damaged is for `read` to find.
        """
        chain = b""
        with contextlib.suppress(lmdb_file.Error, BadImage):
            for record in self._in_order():
                chain = extend_chain(chain, self._value(record))
                if record % _AT_ONCE == 0:
                    yield record
        if digest_of(chain, self.split, self.classes, self.stats) != self.digest:
            raise self._changed()
        self.refuse_changes()

    def _in_order(self) -> Iterator[int]:
        for first in range(0, self.records, _AT_ONCE):
            records = range(first, min(first + _AT_ONCE, self.records))
            self.advise(np.array(records))
            yield from records

    def _changed(self) -> DatasetError:
        return DatasetError(
            f"{self.path} was written to and is another dataset now: the dataset under --data has changed;"
            " restart the loader"
        )

    def verify(self) -> Iterator[str | None]:
        """Yield each record's fault, or None. Raises DatasetError at the end if all are sound, but not their digest."""
        chain, faults = b"", 0
        for record in self._in_order():
            reason = None
            try:
                value = self._value(record)
                reason = fault(*_parts(value), len(self.classes))
                chain = extend_chain(chain, value)
            except BadImage as error:
                reason = str(error)
            faults += reason is not None
            yield reason
        if not faults and digest_of(chain, self.split, self.classes, self.stats) != self.digest:
            raise DatasetError(f"{self.path}: records and statistics do not have the digest noted; pack again")


def _parts(value: bytes) -> tuple[int, int, bytes]:
    return *HEAD.unpack_from(value), value[HEAD.size :]
