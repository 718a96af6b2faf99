"""The image files that a command names, alone or in folders.

Folders are walked once, files before folders, in the order of their names' bytes. Left out are dot files and folders,
`__MACOSX`, the command's own outputs, and in folders what is named by itself.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError
from trainer.checkpoints import checkpoint

_MACOS = b"__MACOSX"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file to answer for.

    label   of its class, if a folder directly below the one named has such a name
    fault   why there is nothing to read: a folder that cannot be listed
    """

    path: bytes
    label: int | None = None
    fault: str = ""


class Collection:
    def __init__(self, named: Sequence[Path], classes: Sequence[str], outputs: Iterable[Path] = ()) -> None:
        self._named = list(dict.fromkeys(map(os.fsencode, named)))
        self._label_of = {name: label for label, name in enumerate(classes)}
        alone = [path for path in self._named if not os.path.isdir(path)]
        written = [name for path in outputs for name in (os.fsencode(path), os.fsencode(path) + b".partial")]
        self._not_again = {os.path.realpath(path) for path in (*alone, *written)}
        self._names_not_again = {os.path.basename(path) for path in (*alone, *self._not_again)}

    def __iter__(self) -> Iterator[ImageFile]:
        entered: set[tuple[int, int]] = set()
        for path in self._named:
            if os.path.isdir(path):
                yield from self._inside(path, entered)
            else:
                yield ImageFile(path)

    def truth(self) -> tuple[list[str], list[str]]:
        """Names of folders directly below those named: of classes, and others."""
        roots = [path for path in self._named if os.path.isdir(path)]
        names = sorted({_class_name(name) for root in roots for name in _listed(root)[1]})
        known, strange = ([name for name in names if (name in self._label_of) == of] for of in (True, False))
        return known, strange

    def _inside(self, root: bytes, entered: set[tuple[int, int]]) -> Iterator[ImageFile]:
        waiting: list[tuple[bytes, int | None]] = [(root, None)]
        while waiting:
            folder, label = waiting.pop()
            if not _is_new(folder, entered):
                continue
            files, folders, fault = _listed(folder)
            if fault:
                yield ImageFile(folder, label, fault)
            for name in files:
                path = os.path.join(folder, name)
                if not (name in self._names_not_again and os.path.realpath(path) in self._not_again):
                    yield ImageFile(path, label)
            for name in reversed(folders):
                own = self._label_of.get(_class_name(name)) if folder is root else label
                waiting.append((os.path.join(folder, name), own))


def _class_name(folder: bytes) -> str:
    """As packing names it."""
    return folder.decode("utf-8", "backslashreplace")


def check_images(named: Sequence[Path]) -> None:
    """Raise UsageError for a name that is not there, or of a run."""
    for path in named:
        _check(path)


def _check(path: Path) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except OSError:
        return  # it is listed with the reason
    if path.suffix == ".safetensors" or (path.is_dir() and _is_run(path)):
        raise UsageError(f"{path} is a run, not images; --with {path} adds it to an ensemble")


def _is_run(folder: Path) -> bool:
    try:
        return (folder / checkpoint.BEST).is_file() or bool(checkpoint.all_in(folder))
    except OSError:
        return False


def _is_new(folder: bytes, entered: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(folder)
    except OSError:
        return True  # it cannot be listed either
    found = status.st_dev, status.st_ino
    is_new = found not in entered
    entered.add(found)
    return is_new


def _listed(folder: bytes) -> tuple[list[bytes], list[bytes], str]:
    """Names of its files, of its folders, and why it cannot be listed."""
    names: tuple[list[bytes], list[bytes]] = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(b".") and entry.name != _MACOS:
                    names[_is_folder(entry)].append(entry.name)
    except OSError as error:
        return [], [], f"it cannot be listed: {error.strerror}"
    return sorted(names[False]), sorted(names[True]), ""


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
