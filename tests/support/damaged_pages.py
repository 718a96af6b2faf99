"""LMDB's pages within a file, to damage one at a time: 4096 bytes, the kind in the flags at byte 10."""

import struct
from pathlib import Path
from typing import Literal

from common.errors import BadImage, DatasetError
from loader.dataset import Dataset

PAGE, HEADER = 4096, 16  # bytes
FLAGS_AT, BRANCH = 10, 1
Kind = Literal["branch", "leaf", "overflow"]
_FLAGS: dict[Kind, int] = {"branch": BRANCH, "leaf": 2, "overflow": 4}


def pages(path: Path, kind: Kind) -> list[int]:
    """Numbers of the pages of a kind, unused ones too; the first of an overflow."""
    raw, found, page = path.read_bytes(), list[int](), 0
    while page * PAGE < len(raw):
        flags, overflow = struct.unpack_from("<HI", raw, page * PAGE + FLAGS_AT)
        if flags & _FLAGS[kind]:
            found.append(page)
        page += max(1, overflow) if flags & _FLAGS["overflow"] else 1
    return found


def write_page(path: Path, page: int, contents: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(contents)


def bad_records(path: Path) -> list[int] | None:
    """Records that cannot be read; None if the dataset cannot be opened."""
    try:
        dataset = Dataset(path)
    except DatasetError:
        return None
    with dataset:
        return [record for record in range(dataset.records) if not _is_read(dataset, record)]


def _is_read(dataset: Dataset, record: int) -> bool:
    try:
        dataset.read(record)
    except BadImage:
        return False
    return True
