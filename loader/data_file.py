"""A regular file held by its descriptor: it stays the file that was opened, whatever becomes of its name."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from common.errors import DatasetError
from common.host_memory import available_memory


@dataclass(frozen=True, slots=True)
class Version:
    """A file's contents at one moment.

    modified_ns   changes with every write, unless somebody sets it back
    changed_ns    changes then too, and when the file is deleted
    """

    digest: bytes
    size: int
    modified_ns: int
    changed_ns: int


class DataFile:
    """The file at `path`, or behind `fd`, which is taken over. Raises DatasetError if it is no regular file."""

    def __init__(self, path: Path, fd: int | None = None) -> None:
        self.path = path
        self.fd = _opened(path) if fd is None else fd
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            self.close()
            raise DatasetError(f"{path} is no file; alexnet-pack makes it")

    @property
    def by_descriptor(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def version(self, digest: bytes) -> Version:
        now = os.fstat(self.fd)
        return Version(digest, now.st_size, now.st_mtime_ns, now.st_ctime_ns)

    def in_place(self) -> bool:
        return names(self.path, self.fd)

    def fits_in_memory(self) -> bool:
        """Return True if reading ahead pays: pages read early stay in memory until they are used."""
        return self.size < available_memory() // 2

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def names(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO's open would wait
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing; alexnet-pack makes it") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened as a dataset: {error.strerror}") from None
