"""Pictures inside an uncompressed tar: its headers are read once, then members are read at random, in place.

A tar within a tar lies there uncompressed and in one piece, so its members too have an offset in the outer file.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import BadImage, UsageError
from loader.sources import MAX_FILE_BYTES, Labels, Names, check_classes, readable

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar: its data are `size` bytes from `offset` of the outer file."""

    name: bytes
    offset: int
    size: int


class ArchiveSource:
    """Members of one tar file, `labels[i]` the class of `members[i]`."""

    def __init__(self, path: Path, members: Iterable[Member], labels: Labels, classes: tuple[str, ...]) -> None:
        members = list(members)
        self._path = path
        self._names = Names(member.name for member in members)
        self._offsets = np.array([member.offset for member in members], np.int64)
        self._sizes = np.array([member.size for member in members], np.int64)
        self._labels, self._classes = labels, classes
        self._descriptor: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> Labels:
        return self._labels

    def __len__(self) -> int:
        return len(self._names)

    def name(self, item: int) -> str:
        return readable(self._names[item])

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
        return {**self.__dict__, "_descriptor": None}  # a process opens the file for itself

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def tree(path: Path) -> dict[str, ArchiveSource]:
    """The sources of a tar of `train/<class>/*` and perhaps `val/<class>/*`."""
    found: dict[str, list[tuple[bytes, Member]]] = {"train": [], "val": []}
    for member in members(path):
        parts = [part for part in member.name.split(b"/") if part not in (b"", b".")]
        split = readable(parts[0]) if parts else ""
        if split in found and not parts[-1].startswith(b"."):
            if len(parts) != 3:
                raise UsageError(f"{path}: {readable(member.name)} is not {split}/<class>/<picture>")
            found[split].append((parts[1], Member(b"/".join(parts), member.offset, member.size)))
    if not found["train"]:
        raise UsageError(f"{path} holds no train/<class>/<picture>")
    classes = tuple(readable(name) for name in sorted({folder for folder, _ in found["train"]}))
    return {split: _labelled(path, pairs, classes) for split, pairs in found.items() if pairs}


def _labelled(path: Path, pairs: list[tuple[bytes, Member]], classes: tuple[str, ...]) -> ArchiveSource:
    pairs = sorted(pairs, key=lambda pair: (pair[0], pair[1].name))  # as folders are listed
    label_of = {name: label for label, name in enumerate(classes)}
    check_classes((readable(folder) for folder, _ in pairs), classes, f"{path}, val")
    labels = np.array([label_of[readable(folder)] for folder, _ in pairs], np.int32)
    return ArchiveSource(path, (member for _, member in pairs), labels, classes)


def members(path: Path, within: Member | None = None) -> Iterator[Member]:
    """The regular files of the tar at `path`, or of the tar that is its member `within`.

    Raises UsageError where it is compressed, no tar, cut off, or holds links or sparse files.
    """
    with _opened(path) as descriptor:
        start = within.offset if within else 0
        end = start + within.size if within else os.fstat(descriptor).st_size
        where = f"{path}, {readable(within.name)}" if within else str(path)
        yield from _scan(descriptor, start, end, where)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Its descriptor. UsageError where it cannot be read or is compressed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        head = os.pread(descriptor, 8, 0)
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                raise UsageError(f"{path} is compressed ({name}); unpack it, or decompress it to a plain .tar")
        yield descriptor
    finally:
        os.close(descriptor)


def _scan(descriptor: int, start: int, end: int, where: str) -> Iterator[Member]:
    at, long_name, long_size = start, None, None
    while at + _BLOCK <= end:
        header = os.pread(descriptor, _BLOCK, at)
        if header == bytes(_BLOCK):
            return
        name, size, kind = _parse(header, where, at)
        data = at + _BLOCK
        if kind not in b"Lx":
            name, size = long_name or name, size if long_size is None else long_size
        if data + size > end:
            break
        if kind == b"L":
            long_name = os.pread(descriptor, size, data).split(b"\0")[0]
        elif kind == b"x":
            fields = _pax_fields(os.pread(descriptor, size, data))
            long_name = fields.get(b"path", long_name)
            long_size = int(fields[b"size"]) if b"size" in fields else None
        elif kind in b"12S":
            raise UsageError(f"{where}: {readable(name)} is a link or sparse; unpack the archive")
        else:
            if kind in b"0\0" + b"7" and not name.endswith(b"/"):
                yield Member(name, data, size)
            if kind not in b"gK":
                long_name = long_size = None
        at = data + -(-size // _BLOCK) * _BLOCK
    raise UsageError(f"{where} is cut off at byte {at - start:,}; fetch it again")


def _parse(header: bytes, where: str, at: int) -> tuple[bytes, int, bytes]:
    """Name, size and type flag of a header block; its own checksum is checked."""
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
        size = _number(header[124:136])
    except ValueError:
        stated, size = -1, 0
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise UsageError(f"{where} is no tar archive, or damaged, at byte {at:,}")
    name, kind = header[:100].split(b"\0")[0], header[156:157]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    return name, size, kind


def _number(field: bytes) -> int:
    """Octal, or GNU's base 256 for 8 GiB and more."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << 88) - 1)
    return int(field.strip(b" \0") or b"0", 8)


def _pax_fields(data: bytes) -> dict[bytes, bytes]:
    """Records "LENGTH KEY=VALUE\\n" of an extended header."""
    fields = {}
    while data[:1].isdigit():
        length = int(data.split(b" ", 1)[0])
        key, _, value = data[:length].split(b" ", 1)[1].removesuffix(b"\n").partition(b"=")
        fields[key], data = value, data[length:]
    return fields
