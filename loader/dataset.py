"""A packed split: one LMDB file, written once, read at random. The only file that knows LMDB.

    key                       value
    record, 8 bytes, big end  see `records`; they are 0..n - 1
    "skipped" + item, 8 bytes msgpack [name, reason]: a picture of the source that is no record
    "progress"                msgpack, while packing: all that is needed to go on after the last commit
    "meta"                    msgpack, once finished; its presence is what makes the file a data set

Every commit is atomic and on the disk when it returns, so a file is always a prefix of the finished one.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import msgpack
import numpy as np
import numpy.typing as npt

from common.errors import BadImage, DatasetError
from loader.data_file import DataFile, Version
from loader.records import FORMAT, HEAD, LONGEST, damage, digest_of, extend_chain, fault
from loader.stats import Stats

_META, _PROGRESS, _SKIPPED = b"meta", b"progress", b"skipped"
_SMALLEST_MAP = 1 << 30
_SPARE = 1 << 20  # so many bytes free, and the disk is as good as full: a commit takes some pages beside its records


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

    file        what it is read from: its descriptor, not its name
    version     what that held when it was opened; another process that reads the same file is given it
    split       "train" or "val"
    records     number of records
    classes     names, in the order of the labels
    digest      16 bytes, see `digest_of`
    mean_hwc, sd, components   of the training set, also in the validation split; see `stats.Stats`
    colour      float64 3 x 3, row k the k-th component times its standard deviation
    meta        all that packing noted: counts of what was skipped, JPEG quality, versions
    """

    def __init__(self, path: Path, fd: int | None = None, version: Version | None = None) -> None:
        """Open the file at `path`, or the one behind `fd`, which is taken over; `path` is then its name in messages.

        Raises DatasetError: missing, not finished, of another format, cut off, or not of the dataset of `version`.
        """
        self.path = path
        self.file = DataFile(path, fd)
        try:
            before = self.file.version(b"")  # what is written from here on counts as a change
            self._env = _open_to_read(self.file)
        except DatasetError:
            self.file.close()
            raise
        try:
            self._transaction = self._env.begin(buffers=True)
            self.meta = self._read_meta()
            stats = Stats.from_fields(self.meta["stats"])
            self.split: str = self.meta["split"]
            self.records: int = self.meta["records"]
            self.classes: tuple[str, ...] = tuple(self.meta["classes"])
            self.digest: bytes = self.meta["digest"]
            if version is not None and version.digest != self.digest:
                raise self._changed()
        except (KeyError, TypeError, ValueError, lmdb.Error) as error:
            self.close()
            raise DatasetError(f"{path} is damaged: {error!r}; delete it and pack again") from None
        except DatasetError:
            self.close()
            raise
        self.version = version or replace(before, digest=self.digest)
        self._sound = True
        self.mean_hwc: npt.NDArray[np.float32] = stats.mean_hwc
        self.sd: npt.NDArray[np.float64] = stats.sd
        self.components: npt.NDArray[np.float64] = stats.components
        self.colour: npt.NDArray[np.float64] = stats.components * stats.sd[:, np.newaxis]
        self.stats = stats

    def close(self) -> None:
        super().close()
        self.file.close()

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
        """Label and JPEG of 0..records - 1. Raises BadImage if its bytes, or the pages that lead to them, are damaged;
        DatasetError if there is no such record.
        """
        if not 0 <= record < self.records:
            raise DatasetError(f"{self.path} has no record {record}; it holds 0 to {self.records - 1}")
        label, checksum, view = self._parts(record)
        jpeg = bytes(view)
        if reason := damage(label, checksum, jpeg, len(self.classes)):
            raise BadImage(f"damaged: {reason}")
        return label, jpeg

    def _parts(self, record: int) -> tuple[int, int, memoryview]:
        """Label, checksum, JPEG; the view is valid until the next read. Raises BadImage if there are none."""
        try:
            value = self._transaction.get(record.to_bytes(8, "big"))
        except lmdb.Error:
            self._renew()
            raise BadImage("damaged: a page of the database") from None
        if value is None or not HEAD.size <= len(value) <= LONGEST:
            raise BadImage("damaged: a page of the database")
        label, checksum = HEAD.unpack_from(value)
        return label, checksum, memoryview(value)[HEAD.size :]

    def _renew(self) -> None:
        """Begin a new transaction: LMDB lets nothing more be read in one that met a bad page."""
        self._transaction.abort()
        self._transaction = self._env.begin(buffers=True)

    def refuse_changes(self) -> None:
        """Raise DatasetError if the file was written to since `version` and holds another dataset now.

        Whatever was read before the call is then of this one. It costs a system call, unless the file was written to,
        or merely touched: then the label and the checksum of each record are read again.
        """
        now = self.file.version(self.digest)
        if now != self.version:
            self._sound = self._sound and self._is_still(now)
            if not self._sound:
                raise self._changed()
            self.version = now

    def _is_still(self, now: Version) -> bool:
        if now.size != self.version.size:
            return False
        self._renew()
        digest = b""
        with contextlib.suppress(lmdb.Error, DatasetError, BadImage, KeyError, TypeError, ValueError):
            digest = self._read_meta()["digest"]
            if digest == self.digest and now.modified_ns != self.version.modified_ns:
                digest = self._digest_of_records()
        return digest == self.digest

    def _digest_of_records(self) -> bytes:
        chain = b""
        for record in range(self.records):
            label, checksum, _ = self._parts(record)
            chain = extend_chain(chain, HEAD.pack(label, checksum))
        return digest_of(chain, self.split, self.classes, self.stats)

    def _changed(self) -> DatasetError:
        return DatasetError(
            f"{self.path} was written to and is another data set now: the data set under --data has changed;"
            " restart the loader"
        )

    def verify(self) -> Iterator[str | None]:
        """For each record in turn what is wrong with it, or None. At the end DatasetError if the whole does not
        have its digest although every record looks sound."""
        chain, faults = b"", 0
        for record in range(self.records):
            reason = None
            try:
                label, checksum, jpeg = self._parts(record)
                reason = fault(label, checksum, bytes(jpeg), len(self.classes))
                chain = extend_chain(chain, HEAD.pack(label, checksum))
            except BadImage as error:
                reason = str(error)
            faults += reason is not None
            yield reason
        if not faults and digest_of(chain, self.split, self.classes, self.stats) != self.digest:
            raise DatasetError(f"{self.path}: records and statistics do not have the digest noted; pack again")

    def skipped(self) -> list[tuple[str, str]]:
        """Names and reasons of the pictures that were left out."""
        return [(name, reason) for _, name, reason in _skipped(self._transaction)]


class Writer(_File):
    """The same file while it is packed: appended to in commits, finished once. One process, under `pack`'s lock.

    meta      what `finish` wrote, once finished
    progress  what the last `commit` wrote, until then
    """

    def __init__(self, path: Path) -> None:
        """Creates the file or opens it where it was left. Raises DatasetError where it is something else."""
        self._path = path
        self._env = self._open()
        self._file = DataFile(path)
        with self._env.begin() as transaction:
            meta, progress = transaction.get(_META), transaction.get(_PROGRESS)
            foreign = meta is None and progress is None and transaction.stat()["entries"] > 0
        if foreign:
            self.close()
            raise DatasetError(f"{path} is not a data set of alexnet-pack; name another folder or delete it")
        self.meta: dict[str, Any] | None = msgpack.unpackb(meta) if meta else None
        self.progress: dict[str, Any] | None = msgpack.unpackb(progress) if progress else None

    def close(self) -> None:
        super().close()
        self._file.close()

    def _open(self) -> lmdb.Environment:
        exists = self._path.exists()
        if exists and not self._path.is_file():  # LMDB would wait at a FIFO for ever
            raise DatasetError(f"{self._path} is not a regular file; delete it or name another folder")
        size = self._path.stat().st_size if exists else 0
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
            return [(name, reason) for _, name, reason in _skipped(transaction)]

    def skipped_items(self) -> list[int]:
        """Numbers of the source's pictures that are no record."""
        with self._env.begin(buffers=True) as transaction:
            return [item for item, _, _ in _skipped(transaction)]

    def _write(self, puts: list[tuple[bytes, bytes]], delete: bytes | None = None) -> None:
        """One transaction; where the map is too small it is doubled, which costs address space only."""
        if not self._file.in_place():  # what is written to it would be lost
            raise DatasetError(f"{self._path} was deleted or replaced while it was packed; run the same command again")
        try:
            while not self._try_to_write(puts, delete):
                self._env.set_mapsize(2 * self._env.info()["map_size"])
        except lmdb.Error as error:
            size = sum(len(key) + len(value) for key, value in puts)
            raise DatasetError(
                f"{self._path} cannot be written: {_reason(error, self._path.parent, size)}; what is committed stays:"
                " make room and run the same command again to go on"
            ) from None

    def _try_to_write(self, puts: list[tuple[bytes, bytes]], delete: bytes | None) -> bool:
        """Return False if the map is too small for it."""
        try:
            with self._env.begin(write=True) as transaction:
                for key, value in puts:
                    transaction.put(key, value)
                if delete is not None:
                    transaction.delete(delete)
        except lmdb.MapFullError:
            return False
        return True


def _reason(error: lmdb.Error, folder: Path, size: int) -> str:
    """A reason why `size` bytes could not be written to a file in `folder`: of a full disk LMDB says only EIO."""
    free = shutil.disk_usage(folder).free
    if free < max(size, _SPARE):
        return f"the disk is full, {free / 2**20:,.1f} MiB are free"
    if isinstance(error, lmdb.MemoryError):
        return "not enough memory, or address space (ulimit -v), to map the file"
    return str(error)


def _open_to_read(file: DataFile) -> lmdb.Environment:
    path, ahead = file.by_descriptor, file.fits_in_memory()
    try:
        env = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=ahead, max_spare_txns=1)
    except (lmdb.Error, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DatasetError(f"{file.path} cannot be opened as a data set: {reason}") from None
    needed, present = _bytes_in_use(env), file.size
    if present < needed:  # to read a page beyond the end of the file would be a SIGBUS, not an error
        env.close()
        raise DatasetError(f"{file.path} is cut off: {present:,} of {needed:,} bytes; copy it again")
    return env


def _bytes_in_use(env: lmdb.Environment) -> int:
    pages: int = env.info()["last_pgno"] + 1
    return pages * int(env.stat()["psize"])


def _skipped(transaction: lmdb.Transaction) -> list[tuple[int, str, str]]:
    """Item, name and reason."""
    found = []
    cursor = transaction.cursor()
    more = cursor.set_range(_SKIPPED)
    while more and bytes(cursor.key()).startswith(_SKIPPED):
        name, reason = msgpack.unpackb(cursor.value())
        found.append((int.from_bytes(cursor.key()[len(_SKIPPED) :], "big"), name, reason))
        more = cursor.next()
    return found
