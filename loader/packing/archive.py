"""Images in an uncompressed tar: its headers are read once, then members are read at random, in place.

A tar within a tar is contiguous and uncompressed, so its members too have an offset in the outer file.
"""

import contextlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.errors import BadImage, UsageError
from common.images.file_bytes import MAX_FILE_BYTES
from common.names import readable
from common.untrusted import open_regular, open_tar, tar_members
from loader.packing.sources import (
    NO_WORDS,
    Labels,
    Names,
    check_classes,
    is_left_out,
    shortened,
)

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file of a tar: `size` bytes at `offset` of the outer file."""

    name: bytes
    offset: int
    size: int


class ArchiveSource:
    """Members of one tar file; `labels[i]` is the class of `members[i]`."""

    def __init__(
        self,
        path: Path,
        members: Iterable[TarMember],
        labels: Labels,
        classes: tuple[str, ...],
        words: Mapping[str, str] = NO_WORDS,
        below: str = "",
    ) -> None:
        """`below`: the folder of the split, which begins each name."""
        members = list(members)
        self._below = os.fsencode(below + "/" * bool(below))
        self._path = path
        self._names = Names(member.name for member in members)
        self._offsets = np.array([member.offset for member in members], np.int64)
        self._sizes = np.array([member.size for member in members], np.int64)
        self.labels, self.classes, self.words = labels, classes, words
        self._descriptor: int | None = None

    def __len__(self) -> int:
        return len(self._names)

    def name(self, item: int) -> str:
        return readable(self._names[item])

    def path(self, item: int) -> bytes:
        name = self._names[item].removeprefix(b"./")
        return name.removeprefix(self._below) if self._below else name

    def read(self, item: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        size = int(self._sizes[item])
        if size > MAX_FILE_BYTES:
            raise BadImage(f"{size:,} bytes are more than {MAX_FILE_BYTES:,}")
        data = os.pread(self._descriptor, size, int(self._offsets[item]))
        if len(data) != size:
            raise OSError(f"{self._path} has become shorter")
        return data

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}  # each process opens the file itself

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def tree(path: Path) -> dict[str, ArchiveSource]:
    found: dict[str, list[tuple[bytes, TarMember]]] = {"train": [], "val": []}
    for member in members(path):
        parts = [part for part in member.name.split(b"/") if part not in (b"", b".")]
        split = readable(parts[0]) if parts else ""
        if split in found and not any(map(is_left_out, parts)):
            if len(parts) != 3:
                raise UsageError(f"{path}: {shortened(member.name)} is not {split}/<class>/<image>")
            found[split].append((parts[1], TarMember(b"/".join(parts), member.offset, member.size)))
    if not found["train"]:
        raise UsageError(f"{path} holds no train/<class>/<image>")
    classes = tuple(readable(name) for name in sorted({folder for folder, _ in found["train"]}))
    return {split: _labelled(path, pairs, classes, split) for split, pairs in found.items() if pairs}


def _labelled(path: Path, pairs: list[tuple[bytes, TarMember]], classes: tuple[str, ...], split: str) -> ArchiveSource:
    pairs = sorted(pairs, key=lambda pair: (pair[0], pair[1].name))  # as folders are listed
    label_of = {name: label for label, name in enumerate(classes)}
    check_classes((readable(folder) for folder, _ in pairs), classes, f"{path}, val")
    labels = np.array([label_of[readable(folder)] for folder, _ in pairs], np.int32)
    return ArchiveSource(path, (member for _, member in pairs), labels, classes, below=split)


def members(path: Path, within: TarMember | None = None) -> Iterator[TarMember]:
    """The regular files of the tar at `path`, or of the tar that is its member `within`.

    Raises UsageError if it is compressed, no tar, cut off, or holds links or sparse files.
    """
    where = f"{path}, {shortened(within.name)}" if within else str(path)
    with _opened(path) as file:
        file.seek(within.offset if within else 0)
        end = within.offset + within.size if within else os.fstat(file.fileno()).st_size
        try:
            with open_tar(file, "r:") as archive:
                yield from _regular(archive, end, where)
                # tarfile takes a header it cannot read for the end; the real one is a block of zeros.
                if os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset) != bytes(tarfile.BLOCKSIZE):
                    raise UsageError(f"{where} is cut off or damaged at byte {archive.offset:,}; fetch it again")
        except tarfile.TarError as error:
            raise UsageError(f"{where} is no tar archive, or cut off: {error}") from None
        except OSError as error:
            raise UsageError(f"{where} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        head = os.pread(file.fileno(), 8, 0)
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                raise UsageError(f"{path} is compressed ({name}); unpack it, or decompress it to a plain .tar")
        yield file


def _regular(archive: tarfile.TarFile, end: int, where: str) -> Iterator[TarMember]:
    for info in tar_members(archive):
        name = os.fsencode(info.name)
        if info.offset_data + info.size > end:
            raise UsageError(f"{where} is cut off in {shortened(name)}; fetch it again")
        if info.issym() or info.islnk() or info.issparse():
            raise UsageError(f"{where}: {shortened(name)} is a link or sparse; unpack the archive")
        if info.isreg():
            yield TarMember(name, info.offset_data, info.size)
