"""A packed split: one LMDB file, written once, read at random. The only file that knows LMDB.

    key                       value
    record, 8 bytes, big end  label, checksum (uint32 each, little end), JPEG; records are 0..n - 1
    "skipped" + item, 8 bytes msgpack [name, reason]: a picture of the source that is no record
    "progress"                msgpack, while packing: all that is needed to go on after the last commit
    "meta"                    msgpack, once finished; its presence is what makes the file a data set

Every commit is atomic and on the disk when it returns, so a file is always a prefix of the finished one.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import msgpack
import numpy as np
import numpy.typing as npt

from common.errors import BadImage, DatasetError
from common.spec import STORED_SIZE
from loader import jpeg as codec
from loader.stats import Stats

FORMAT = 1

_META, _PROGRESS, _SKIPPED = b"meta", b"progress", b"skipped"
_HEAD = struct.Struct("<II")  # label, checksum
_SMALLEST_MAP = 1 << 30


def record_bytes(label: int, jpeg: bytes) -> bytes:
    """One record's value; the checksum is CRC-32 of label and JPEG."""
    return _HEAD.pack(label, _checksum(label, jpeg)) + jpeg


def extend_chain(chain: bytes, record: bytes) -> bytes:
    """16 bytes that stand for labels and checksums of all records up to this one. It begins as b""."""
    return hashlib.blake2b(chain + record[: _HEAD.size], digest_size=16).digest()


def digest_of(chain: bytes, split: str, classes: tuple[str, ...], stats: Stats) -> bytes:
    """16 bytes naming a split's contents: equal digests, equal labels, pictures, class names and statistics."""
    told = [FORMAT, split, list(classes), stats.to_fields(), chain]
    return hashlib.blake2b(msgpack.packb(told), digest_size=16).digest()


def _checksum(label: int, jpeg: bytes) -> int:
    return zlib.crc32(jpeg, zlib.crc32(struct.pack("<I", label)))


class _File:
    """An LMDB file as a context manager that closes it."""

    _env: lmdb.Environment

    def close(self) -> None:
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Dataset(_File):
    """A finished split, read only. Open it after a fork or spawn, once in each process.

    split       "train" or "val"
    records     number of records
    classes     names, in the order of the labels
    digest      16 bytes, see `digest_of`
    mean_hwc, sd, components   of the training set, also in the validation split; see `stats.Stats`
    colour      float64 3 x 3, row k the k-th component times its standard deviation
    meta        all that packing noted: counts of what was skipped, JPEG quality, versions
    """

    def __init__(self, path: Path) -> None:
        """Raises DatasetError: missing, not finished, of another format, or cut off."""
        self.path = path
        self._env = _open_to_read(path)
        try:
            self._transaction = self._env.begin(buffers=True)
            self.meta = self._read_meta()
            stats = Stats.from_fields(self.meta["stats"])
            self.split: str = self.meta["split"]
            self.records: int = self.meta["records"]
            self.classes: tuple[str, ...] = tuple(self.meta["classes"])
            self.digest: bytes = self.meta["digest"]
        except (KeyError, TypeError, ValueError, lmdb.Error) as error:
            self.close()
            raise DatasetError(f"{path} is damaged: {error!r}; delete it and pack again") from None
        except DatasetError:
            self.close()
            raise
        self.mean_hwc: npt.NDArray[np.float32] = stats.mean_hwc
        self.sd: npt.NDArray[np.float64] = stats.sd
        self.components: npt.NDArray[np.float64] = stats.components
        self.colour: npt.NDArray[np.float64] = stats.components * stats.sd[:, np.newaxis]
        self.stats = stats

    def _read_meta(self) -> dict[str, Any]:
        raw, progress = self._transaction.get(_META), self._transaction.get(_PROGRESS)
        if raw is None and progress is None:
            raise DatasetError(f"{self.path} is not a data set of alexnet-pack")
        meta: dict[str, Any] = msgpack.unpackb(raw if raw is not None else progress)
        if meta["format"] != FORMAT:
            raise DatasetError(f"{self.path} has format {meta['format']}, this program reads {FORMAT}; pack again")
        if raw is None:
            done = f"{meta['consumed']:,} of {meta['items']:,} pictures"
            raise DatasetError(f"{self.path} is not finished ({done}); run the same alexnet-pack again to go on")
        return meta

    def read(self, record: int) -> tuple[int, bytes]:
        """Label and JPEG of 0..records - 1. DatasetError where it is absent, BadImage where its bytes are damaged."""
        label, checksum, view = self._parts(record)
        jpeg = bytes(view)
        if damage := self._damage(label, checksum, jpeg):
            raise BadImage(f"damaged: {damage}")
        return label, jpeg

    def _parts(self, record: int) -> tuple[int, int, memoryview]:
        """Label, checksum, JPEG; the view is valid while the data set is open."""
        try:
            value = self._transaction.get(record.to_bytes(8, "big")) if record >= 0 else None
        except lmdb.Error as error:
            raise DatasetError(f"{self.path} is damaged at record {record}: {error}; pack again") from None
        if value is None or len(value) < _HEAD.size:
            raise DatasetError(f"{self.path} has no record {record}; it holds 0 to {self.records - 1}")
        label, checksum = _HEAD.unpack_from(value)
        return label, checksum, memoryview(value)[_HEAD.size :]

    def verify(self) -> Iterator[str | None]:
        """For each record in turn what is wrong with it, or None. At the end DatasetError if the whole does not
        have its digest although every record looks sound."""
        chain, faults = b"", 0
        for record in range(self.records):
            fault = None
            try:
                label, checksum, jpeg = self._parts(record)
                fault = self._fault(label, checksum, bytes(jpeg))
                chain = extend_chain(chain, _HEAD.pack(label, checksum))
            except DatasetError as error:
                fault = str(error)
            faults += fault is not None
            yield fault
        if not faults and digest_of(chain, self.split, self.classes, self.stats) != self.digest:
            raise DatasetError(f"{self.path}: records and statistics do not have the digest noted; pack again")

    def _damage(self, label: int, checksum: int, jpeg: bytes) -> str | None:
        if checksum != _checksum(label, jpeg):
            return "checksum"
        if label >= len(self.classes):
            return f"label {label} of {len(self.classes)} classes"
        return None

    def _fault(self, label: int, checksum: int, jpeg: bytes) -> str | None:
        if damage := self._damage(label, checksum, jpeg):
            return damage
        try:
            height, width = codec.size(jpeg)
        except BadImage as error:
            return str(error)
        return None if (height, width) == (STORED_SIZE, STORED_SIZE) else f"{width}x{height} pixels"

    def skipped(self) -> list[tuple[str, str]]:
        """Names and reasons of the pictures that were left out."""
        return _skipped(self._transaction)


class Writer(_File):
    """The same file while it is packed: appended to in commits, finished once. One process, under `pack`'s lock.

    meta      what `finish` wrote, once finished
    progress  what the last `commit` wrote, until then
    """

    def __init__(self, path: Path) -> None:
        """Creates the file or opens it where it was left. Raises DatasetError where it is something else."""
        self._path = path
        self._env = self._open()
        with self._env.begin() as transaction:
            meta, progress = transaction.get(_META), transaction.get(_PROGRESS)
            foreign = meta is None and progress is None and transaction.stat()["entries"] > 0
        if foreign:
            self.close()
            raise DatasetError(f"{path} is not a data set of alexnet-pack; name another folder or delete it")
        self.meta: dict[str, Any] | None = msgpack.unpackb(meta) if meta else None
        self.progress: dict[str, Any] | None = msgpack.unpackb(progress) if progress else None

    def _open(self) -> lmdb.Environment:
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            return lmdb.open(
                str(self._path), subdir=False, lock=False, readahead=False, map_size=max(_SMALLEST_MAP, 2 * size)
            )
        except (lmdb.Error, OSError) as error:
            raise DatasetError(f"{self._path} cannot be opened to write: {error}") from None

    def commit(
        self, first: int, records: Iterable[bytes], skipped: Iterable[tuple[int, str, str]], progress: dict[str, Any]
    ) -> None:
        """Add records `first`..., skipped (item, name, reason) and the state to go on from: all or nothing."""
        puts = [((first + n).to_bytes(8, "big"), record) for n, record in enumerate(records)]
        puts += [(_SKIPPED + item.to_bytes(8, "big"), msgpack.packb([name, why])) for item, name, why in skipped]
        puts.append((_PROGRESS, msgpack.packb(progress)))
        self._write(puts)
        self.progress = progress

    def finish(self, meta: dict[str, Any]) -> None:
        self._write([(_META, msgpack.packb(meta))], delete=_PROGRESS)
        self.meta, self.progress = meta, None

    def skipped(self) -> list[tuple[str, str]]:
        with self._env.begin(buffers=True) as transaction:
            return _skipped(transaction)

    def _write(self, puts: list[tuple[bytes, bytes]], delete: bytes | None = None) -> None:
        """One transaction; where the map is too small it is doubled, which costs address space only."""
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in puts:
                        transaction.put(key, value)
                    if delete is not None:
                        transaction.delete(delete)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                raise DatasetError(
                    f"{self._path} cannot be written ({error}); what is committed stays: "
                    "make room and run the same command again to go on"
                ) from None


def _fits_in_memory(path: Path) -> bool:
    """Whether reading ahead is of use: what is read at random will be wanted soon, and need not make way for more."""
    available = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return available is not None and path.stat().st_size < int(available[1]) * 1024 // 2


def _open_to_read(path: Path) -> lmdb.Environment:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; alexnet-pack makes it")
    try:
        env = lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=_fits_in_memory(path), max_spare_txns=1
        )
    except (lmdb.Error, OSError) as error:
        raise DatasetError(f"{path} cannot be opened as a data set: {error}") from None
    needed, present = _bytes_in_use(env), os.path.getsize(path)
    if present < needed:  # to read a page beyond the end of the file would be a SIGBUS, not an error
        env.close()
        raise DatasetError(f"{path} is cut off: {present:,} of {needed:,} bytes; copy it again")
    return env


def _bytes_in_use(env: lmdb.Environment) -> int:
    pages: int = env.info()["last_pgno"] + 1
    return pages * int(env.stat()["psize"])


def _skipped(transaction: lmdb.Transaction) -> list[tuple[str, str]]:
    found = []
    cursor = transaction.cursor()
    more = cursor.set_range(_SKIPPED)
    while more and bytes(cursor.key()).startswith(_SKIPPED):
        name, reason = msgpack.unpackb(cursor.value())
        found.append((name, reason))
        more = cursor.next()
    return found
