"""Untrusted files: regular files only, and tar archives in bounded memory."""

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

MAX_EXTENDED_BYTES = 1 << 18  # of a header with a long name or attributes
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def open_regular(path: Path | bytes) -> BinaryIO:
    """Open for reading, following links. Raises OSError also if it is not a regular file: a FIFO would block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(descriptor, "rb")  # noqa: SIM115  # the caller's
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Raises OSError as `open_regular` does, and if there are more than `most_bytes`."""
    with open_regular(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes", str(path))
    return data


class GuardedTarInfo(tarfile.TarInfo):
    """Refuses what tarfile would read whole into memory: large extended headers, tables of sparse files."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        if member.type in _EXTENDED and member.size > MAX_EXTENDED_BYTES:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes, more than {MAX_EXTENDED_BYTES:,}")
        if member.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        return member

    def _proc_gnusparse_00(self, *_: Any) -> None:
        _refuse_sparse()

    def _proc_gnusparse_01(self, *_: Any) -> None:
        _refuse_sparse()

    def _proc_gnusparse_10(self, *_: Any) -> None:
        _refuse_sparse()


@contextlib.contextmanager
def open_tar(file: BinaryIO, mode: Literal["r:", "r:*"]) -> Iterator[tarfile.TarFile]:
    """Raises tarfile.TarError, and OSError if reading fails."""
    with _as_read_errors():
        archive = tarfile.open(fileobj=file, mode=mode, tarinfo=GuardedTarInfo)  # noqa: SIM115  # the first header is read here
    with archive:
        yield archive


def tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield each member, keeping none. Raises as `open_tar` does."""
    while True:
        with _as_read_errors():
            member = archive.next()
        if member is None:
            return
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all, a kilobyte each
        if member.size < 0:  # as an extended header has it
            raise tarfile.ReadError("a member has a negative size")
        yield member


@contextlib.contextmanager
def _as_read_errors() -> Iterator[None]:
    try:
        yield
    except (RecursionError, ValueError, OverflowError) as error:
        raise tarfile.ReadError(f"its headers make no sense: {type(error).__name__}") from None


def _refuse_sparse() -> None:
    raise tarfile.ReadError("it holds a sparse file; unpack the archive")
