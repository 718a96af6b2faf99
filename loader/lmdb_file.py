"""LMDB environments: opening, checked, and writing. The only file that imports lmdb."""

import shutil
from pathlib import Path

import lmdb

from common.errors import DatasetError
from loader.data_file import DataFile

SMALLEST_MAP = 1 << 30
_SPARE = 1 << 20  # bytes: with less free the disk counts as full, for a commit takes some pages beside its records

Environment = lmdb.Environment
Error = lmdb.Error


def open_to_read(file: DataFile) -> lmdb.Environment:
    path, ahead = file.by_descriptor, file.fits_in_memory()
    try:
        env = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=ahead, max_spare_txns=1)
    except (lmdb.Error, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DatasetError(f"{file.path} cannot be opened as a dataset: {reason}") from None
    needed, present = bytes_in_use(env), file.size
    if present < needed:  # to read a page beyond the end of the file would be a SIGBUS, not an error
        env.close()
        raise DatasetError(f"{file.path} is cut off: {present:,} of {needed:,} bytes; copy it again")
    return env


def bytes_in_use(env: lmdb.Environment) -> int:
    pages: int = env.info()["last_pgno"] + 1
    return pages * int(env.stat()["psize"])


def open_to_write(path: Path) -> lmdb.Environment:
    exists = path.exists()
    if exists and not path.is_file():  # LMDB would wait at a FIFO for ever
        raise DatasetError(f"{path} is not a regular file; delete it or name another folder")
    size = path.stat().st_size if exists else 0
    try:
        return lmdb.open(str(path), subdir=False, lock=False, readahead=False, map_size=max(SMALLEST_MAP, 2 * size))
    except (lmdb.Error, OSError) as error:
        raise DatasetError(f"{path} cannot be opened to write: {error}") from None


def write(env: lmdb.Environment, path: Path, puts: list[tuple[bytes, bytes]], delete: bytes | None = None) -> None:
    """Write in one transaction, doubling the map while it is too small. Raises DatasetError with the reason."""
    try:
        while not _try_to_write(env, puts, delete):
            env.set_mapsize(2 * env.info()["map_size"])
    except lmdb.Error as error:
        size = sum(len(key) + len(value) for key, value in puts)
        raise DatasetError(
            f"{path} cannot be written: {_reason(error, path.parent, size)}; what is committed stays:"
            " make room and run the same command again to resume"
        ) from None


def _try_to_write(env: lmdb.Environment, puts: list[tuple[bytes, bytes]], delete: bytes | None) -> bool:
    try:
        with env.begin(write=True) as transaction:
            for key, value in puts:
                transaction.put(key, value)
            if delete is not None:
                transaction.delete(delete)
    except lmdb.MapFullError:
        return False
    return True


def _reason(error: lmdb.Error, folder: Path, size: int) -> str:
    """The reason of a failed write; of a full disk LMDB says only EIO."""
    free = shutil.disk_usage(folder).free
    if free < max(size, _SPARE):
        return f"the disk is full, {free / 2**20:,.1f} MiB are free"
    if isinstance(error, lmdb.MemoryError):
        return "not enough memory, or address space (ulimit -v), to map the file"
    return str(error)
