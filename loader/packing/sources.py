"""Sources of images: indexed lists that any process can read at random."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.errors import UsageError
from common.images.file_bytes import read_file
from common.names import readable

log = logging.getLogger(__name__)

NO_WORDS: Mapping[str, str] = {}

_TOLD_BYTES = 200  # of a name

Labels = npt.NDArray[np.int32]


class Source(Protocol):
    """Images 0..len - 1 with their labels. Picklable and compact: it is sent to worker processes."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def words(self) -> Mapping[str, str]:
        """Descriptions of some of the classes, by class name."""
        ...

    @property
    def labels(self) -> Sequence[int] | npt.NDArray[np.integer]: ...

    def __len__(self) -> int: ...

    def name(self, item: int) -> str:
        """For people: path of the file, its split's folder included."""
        ...

    def path(self, item: int) -> bytes:
        """Path of the file below its split's folder, as the file system or archive spells it."""
        ...

    def read(self, item: int) -> bytes:
        """The file's bytes. Raises BadImage if this file alone is at fault, OSError if reading failed."""
        ...


class Names:
    """Many byte strings in one: 1.3 million file names take 30 MB."""

    def __init__(self, names: Iterable[bytes]) -> None:
        parts = list(names)
        self._text = b"".join(parts)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, item: int) -> bytes:
        start = int(self._ends[item - 1]) if item else 0
        return self._text[start : int(self._ends[item])]


def shortened(name: bytes) -> str:
    return readable(name[:_TOLD_BYTES]) + ("..." if len(name) > _TOLD_BYTES else "")


class FolderSource:
    """`root/<class>/*`, or `root/<class>/<inside>/*`, sorted by bytes, not by locale.

    Dot files and folders, `__MACOSX` and classes without a file are left out and logged.
    """

    def __init__(
        self,
        root: Path,
        classes: tuple[str, ...] | None = None,
        inside: str = "",
        words: Mapping[str, str] = NO_WORDS,
    ) -> None:
        """Raises UsageError for a class not in `classes`, a folder within a class's folder, a file outside them, or no
        image.
        """
        self._root = root
        self._inside = os.fsencode(inside)
        listed = {folder: self._files(folder) for folder in _folders(root)}
        self._folders = [folder for folder, files in listed.items() if files]
        _tell_of_empty(root, [folder for folder, files in listed.items() if not files])
        own_classes = tuple(readable(folder) for folder in self._folders)
        self.classes = own_classes if classes is None else classes
        self.words = words
        label_of = {name: label for label, name in enumerate(self.classes)}
        check_classes(own_classes, self.classes, str(root))
        counts = [len(listed[folder]) for folder in self._folders]
        self._names = Names(name for folder in self._folders for name in listed[folder])
        self._folder_of = np.repeat(np.arange(len(self._folders), dtype=np.int32), counts)
        if not len(self._names):
            raise UsageError(f"{root} holds no image: they lie in {root}/<class>/")
        self.labels: Labels = np.array([label_of[name] for name in own_classes], np.int32)[self._folder_of]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, item: int) -> str:
        return readable(os.path.join(os.fsencode(self._root.name), self.path(item)))

    def read(self, item: int) -> bytes:
        return read_file(os.path.join(os.fsencode(self._root), self.path(item)))

    def path(self, item: int) -> bytes:
        return os.path.join(self._folders[int(self._folder_of[item])], self._inside, self._names[item])

    def _files(self, folder: bytes) -> list[bytes]:
        path = os.path.join(os.fsencode(self._root), folder, *[self._inside] * bool(self._inside))
        return files_of(path) if os.path.isdir(path) else []


class FlatSource:
    def __init__(
        self,
        root: Path,
        class_of: Callable[[str], str | None],
        classes: tuple[str, ...],
        said_by: str,
        words: Mapping[str, str] = NO_WORDS,
    ) -> None:
        """Raises UsageError for a file of none of `classes`."""
        self._root, self.classes, self.words = root, classes, words
        files = files_of(os.fsencode(root))
        if not files:
            raise UsageError(f"{root} holds no image")
        own = [class_of(readable(name)) for name in files]
        if None in own:
            raise UsageError(f"{root}: {said_by} does not say of which class {shortened(files[own.index(None)])} is")
        names = [name for name in own if name is not None]
        check_classes(names, classes, str(root))
        label_of = {name: label for label, name in enumerate(classes)}
        self._names = Names(files)
        self.labels: Labels = np.array([label_of[name] for name in names], np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, item: int) -> str:
        return readable(os.path.join(os.fsencode(self._root.name), self._names[item]))

    def path(self, item: int) -> bytes:
        return self._names[item]

    def read(self, item: int) -> bytes:
        return read_file(os.path.join(os.fsencode(self._root), self._names[item]))


def _tell_of_empty(root: Path, folders: list[bytes]) -> None:
    if folders:
        more = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
        log.warning("%s/%s%s: no image, so no class; left out", root, shortened(folders[0]), more)


def check_classes(own: Iterable[str], known: tuple[str, ...], where: str) -> None:
    """Raises UsageError for a class that is not `known`."""
    strange = sorted(set(own) - set(known))
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UsageError(f"{where}: class {strange[0]!r}{more} is not among the training set's {len(known)} classes")


def warn_of_test(folder: Path) -> None:
    if (folder / "test").is_dir():
        log.warning("%s/test: left out; train/ and val/ alone are packed", folder)


def is_left_out(name: bytes) -> bool:
    return name.startswith(b".") or name == b"__MACOSX"


def _folders(root: Path) -> list[bytes]:
    folders = []
    for entry in _visible(os.fsencode(root)):
        if not _is_folder(entry):
            raise UsageError(f"{readable(entry.path)} lies in no class's folder: images lie in {root}/<class>/")
        folders.append(entry.name)
    return sorted(folders)


def files_of(folder: bytes) -> list[bytes]:
    """Names of a folder's files, sorted by their bytes. Raises UsageError for a folder among them."""
    names = []
    for entry in _visible(folder):
        if _is_folder(entry):
            raise UsageError(f"{readable(entry.path)} is a folder: images lie directly in the class's folder")
        names.append(entry.name)
    return sorted(names)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _visible(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            visible = []
            for entry in entries:
                if not is_left_out(entry.name):
                    visible.append(entry)
                elif not entry.name.startswith(b"."):
                    log.warning("%s: left out", readable(entry.path))
            return visible
    except OSError as error:
        raise UsageError(f"{readable(folder)} cannot be listed: {error.strerror}") from None
