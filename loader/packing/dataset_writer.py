"""A split while it is packed: the file of `loader/dataset.py`, appended to."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgpack

from common.errors import DatasetError
from loader import lmdb_file
from loader.data_file import DataFile
from loader.dataset import META, PROGRESS, SKIPPED, SplitFile
from loader.meta import Meta, Progress
from loader.name_blocks import name_blocks


class Writer(SplitFile):
    """The same file while it is packed, under `pack`'s lock; `meta` is there once finished, `progress` until then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as undo:
            self._env = lmdb_file.open_to_write(path)
            undo.callback(self._env.close)
            self.file = DataFile(path)
            undo.callback(self.file.close)
            with self._env.begin() as transaction:
                meta, progress = transaction.get(META), transaction.get(PROGRESS)
                foreign = meta is None and progress is None and transaction.stat()["entries"] > 0
            if foreign:
                raise DatasetError(f"{path} is not a dataset of alexnet-pack; name another folder or delete it")
            self.meta, self.progress = Meta.parsed(meta, path), Progress.parsed(progress, path)
            undo.pop_all()

    def commit(
        self,
        first: int,
        records: Iterable[bytes],
        skipped: Iterable[tuple[int, str, str]],
        progress: Progress,
        names: Sequence[bytes] = (),
    ) -> None:
        """Add records from number `first` on, skipped (item, name, reason) and the state to resume from, atomically.

        names   of the last records of those that `progress` counts as named
        """
        puts = [((first + n).to_bytes(8, "big"), record) for n, record in enumerate(records)]
        puts += [(SKIPPED + item.to_bytes(8, "big"), msgpack.packb([name, why])) for item, name, why in skipped]
        puts += name_blocks(progress.named - len(names), names)
        puts.append((PROGRESS, progress.to_bytes()))
        self._write(puts)
        self.progress = progress

    def finish(self, meta: Meta) -> None:
        self._write([(META, meta.to_bytes())], delete=PROGRESS)
        self.meta, self.progress = meta, None

    def _write(self, puts: list[tuple[bytes, bytes]], delete: bytes | None = None) -> None:
        if not self.file.in_place():  # what is written to it would be lost
            raise DatasetError(f"{self._path} was deleted or replaced while it was packed; run the same command again")
        lmdb_file.write(self._env, self._path, puts, delete)
