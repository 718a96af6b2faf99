"""Where pictures come from: an indexed list that any process can read at random."""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.errors import BadImage, UsageError

MAX_FILE_BYTES = 1 << 28  # no photo is larger; a disk image among the pictures must not fill the memory
_TOLD_BYTES = 200  # of a name

Labels = npt.NDArray[np.int32]


class Source(Protocol):
    """Pictures 0..len - 1 with their labels. Picklable: it goes to worker processes, so it is compact."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> Sequence[int] | npt.NDArray[np.integer]: ...

    def __len__(self) -> int: ...

    def name(self, item: int) -> str:
        """What the user would recognise: a path or an archive's member."""
        ...

    def read(self, item: int) -> bytes:
        """The file's bytes. BadImage where this file alone is at fault, OSError where the reading failed."""
        ...


class Names:
    """Many byte strings in one: 1.3 million file names take 30 MB, and travel to a worker in one piece."""

    def __init__(self, names: Iterable[bytes]) -> None:
        parts = list(names)
        self._text = b"".join(parts)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, item: int) -> bytes:
        start = int(self._ends[item - 1]) if item else 0
        return self._text[start : int(self._ends[item])]


def readable(name: bytes) -> str:
    """A file name as text that any terminal and any JSON reader takes, whatever its bytes."""
    return name.decode("utf-8", "backslashreplace")


def shortened(name: bytes) -> str:
    """The same, of a bounded length, for a message."""
    return readable(name[:_TOLD_BYTES]) + ("..." if len(name) > _TOLD_BYTES else "")


class FolderSource:
    """`root/<class>/*`. Files that begin with a dot are left out; nothing is sorted by locale."""

    def __init__(self, root: Path, classes: tuple[str, ...] | None = None) -> None:
        """Lists the tree. `classes`, where given, are the training set's: any other is a UsageError, as is a folder
        within a class's folder, a file outside them, or a tree without a picture."""
        self._root = root
        self._folders = _folders(root)
        own_classes = tuple(readable(folder) for folder in self._folders)
        self.classes = own_classes if classes is None else classes
        label_of = {name: label for label, name in enumerate(self.classes)}
        check_classes(own_classes, self.classes, str(root))
        files = [_files(os.path.join(os.fsencode(root), folder)) for folder in self._folders]
        counts = [len(names) for names in files]
        self._names = Names(name for names in files for name in names)
        self._folder_of = np.repeat(np.arange(len(files), dtype=np.int32), counts)
        self.labels: Labels = np.array([label_of[name] for name in own_classes], np.int32)[self._folder_of]
        if not len(self._names):
            raise UsageError(f"{root} holds no picture: they lie in {root}/<class>/")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, item: int) -> str:
        folder = self._folders[int(self._folder_of[item])]
        return readable(b"/".join((os.fsencode(self._root.name), folder, self._names[item])))

    def read(self, item: int) -> bytes:
        folder = self._folders[int(self._folder_of[item])]
        return read_file(os.path.join(os.fsencode(self._root), folder, self._names[item]))


def check_classes(own: Iterable[str], known: tuple[str, ...], where: str) -> None:
    """UsageError where `own` has a class that the training set has not."""
    strange = sorted(set(own) - set(known))
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UsageError(f"{where}: class {strange[0]!r}{more} is not among the training set's {len(known)} classes")


def read_file(path: bytes) -> bytes:
    """A regular file's bytes. BadImage for what is wrong with this file alone, OSError for a failing disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
    except OSError as error:
        lost_link = error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path)
        if lost_link or error.errno in (errno.EACCES, errno.ENXIO):
            raise BadImage("a link to nothing" if lost_link else str(error.strerror)) from None
        raise
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImage(f"{status.st_size:,} bytes are more than {MAX_FILE_BYTES:,}")
        return file.readall() or b""


def _folders(root: Path) -> list[bytes]:
    """Names of the class folders, sorted by their bytes; links to folders count."""
    folders = []
    for entry in _visible(os.fsencode(root)):
        if not entry.is_dir():
            raise UsageError(f"{readable(entry.path)} lies in no class's folder: pictures lie in {root}/<class>/")
        folders.append(entry.name)
    return sorted(folders)


def _files(folder: bytes) -> list[bytes]:
    names = []
    for entry in _visible(folder):
        if entry.is_dir():
            raise UsageError(f"{readable(entry.path)} is a folder: pictures lie directly in the class's folder")
        names.append(entry.name)
    return sorted(names)


def _visible(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(b".")]
    except OSError as error:
        raise UsageError(f"{readable(folder)} cannot be listed: {error.strerror}") from None
