"""Tar archives of others' making: Python's tarfile, held to bounded memory."""

import contextlib
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, Self

MAX_EXTENDED_BYTES = 1 << 18  # of a header that holds a long name or a list of attributes
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Member(tarfile.TarInfo):
    """Refuses what tarfile would read whole into memory: extended headers of any size, tables of sparse files."""

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
def opened(file: BinaryIO, mode: Literal["r:", "r:*"]) -> Iterator[tarfile.TarFile]:
    """The archive that begins where `file` stands. Raises tarfile.TarError; OSError if reading fails."""
    with _in_its_own_words():
        archive = tarfile.open(fileobj=file, mode=mode, tarinfo=Member)  # noqa: SIM115  # the first header is read here
    with archive:
        yield archive


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member in turn of an archive that `opened` opened; none is kept. Raises as that does."""
    while True:
        with _in_its_own_words():
            member = archive.next()
        if member is None:
            return
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all, a kilobyte each
        if member.size < 0:  # as an extended header has it
            raise tarfile.ReadError("a member has a negative size")
        yield member


@contextlib.contextmanager
def _in_its_own_words() -> Iterator[None]:
    """Damage that tarfile did not think of is raised as it raises the other."""
    try:
        yield
    except (RecursionError, ValueError, OverflowError) as error:
        raise tarfile.ReadError(f"its headers make no sense: {type(error).__name__}") from None


def _refuse_sparse() -> None:
    raise tarfile.ReadError("it holds a sparse file; unpack the archive")
