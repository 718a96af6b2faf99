"""A hidden layer's features of each image, in files that numpy reads.

    OUT.npy           float32 n x units: the columns are the layer's units, half 0's first
    OUT.labels.npy    int64 n, of the served dataset; -1 for a corrupt record, whose row is NaN
    OUT.records.npy   int64 n, the record of each row, rising
    OUT.names.json    a list of n texts, the path of each record's file below its split's folder; "" if unknown

Features are outputs after activation, times 1 - dropout.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.cli.outputs import whole_file, written
from common.cli.progress import duration, showing_progress
from common.client.batch import Batch
from common.errors import CheckpointError
from trainer.device.streams import Streams
from trainer.evaluation.ensemble import Member, views
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import Pinned
from trainer.feeding.upload import AsyncResult


@dataclass(frozen=True, slots=True)
class Written:
    path: Path
    layer: str
    rows: int
    units: int
    seconds: float

    def text(self) -> str:
        rate = self.rows / self.seconds
        return f"{self.path}: {self.layer} of {self.rows:,} images, {self.units:,} units each; {rate:,.0f} images/s"


def write_features(
    path: Path,
    layer: str,
    member: Member,
    batches: Iterator[Batch],
    names: Callable[[Sequence[int]], list[str]],
    *,
    rows: int,
    records: int,
    streams: Streams,
) -> Written:
    """Write features of the centre views of `rows` images, of a split of `records`, and what `names` returns of theirs.

    Raises AlexNetError if the disk is full, CheckpointError if features are not finite.
    """
    started_s = time.monotonic()
    feed = Feed(member.net, streams=streams, pinned=Pinned())
    with whole_file(path) as partial, showing_progress() as progress:
        table = _Table(partial, rows, records)
        queued: _QueuedFeatures | None = None
        for fed in feed.batches(batches):
            before, queued = queued, _queue(member, fed, layer, streams)
            if before is not None:
                table.take_in(before)
            if progress.is_due() and table.filled:
                rate = table.filled / (time.monotonic() - started_s)
                left = duration((rows - table.filled) / rate)
                progress.show(f"{layer}  {table.filled:,}/{rows:,} images  {rate:,.0f} images/s  ETA {left}")
        assert queued is not None, "a split has a record"
        table.take_in(queued)
        table.finish()
    _save(path.with_suffix(".labels.npy"), table.labels)
    _save(path.with_suffix(".records.npy"), table.records)
    _save_names(path.with_suffix(".names.json"), names(table.records.tolist()))
    return Written(path, layer, rows, table.units, time.monotonic() - started_s)


@dataclass(frozen=True, slots=True, eq=False)
class _QueuedFeatures:
    batch: Batch
    parts: list[AsyncResult]


def _queue(member: Member, fed: DeviceBatch, layer: str, streams: Streams) -> _QueuedFeatures:
    (centre, *_) = views(member.recipe.crop)
    parts = member.net.features(member.pixels(fed.pixels, centre), layer)
    return _QueuedFeatures(fed.batch, [AsyncResult(part, streams) for part in parts])


class _Table:
    """The rows on the disk, written in place if every record comes, else sorted at the end."""

    def __init__(self, path: Path, rows: int, records: int) -> None:
        self._path, self._all = path, rows == records
        self.labels = np.full(rows, -1, np.int64)
        self.records = np.arange(rows)
        self.filled = self.units = 0
        self._features: np.ndarray | None = None

    def take_in(self, queued: _QueuedFeatures) -> None:
        batch, features = queued.batch, torch.cat([part.read() for part in queued.parts], dim=1).numpy()
        if not np.isfinite(features).all():
            raise CheckpointError("the checkpoint's features are not finite: training diverged before it was saved")
        records, labels = batch.records.copy(), batch.labels.copy()
        for place in batch.replaced:
            at = place.position - batch.first
            records[at], labels[at], features[at] = place.record, -1, np.nan
        if self._features is None:
            self.units = features.shape[1]
            shape = len(self.labels), self.units
            self._features = np.lib.format.open_memmap(self._path, "w+", np.float32, shape)
            _reserve(self._path)
        rows = records if self._all else np.arange(self.filled, self.filled + len(records))
        self._features[rows], self.labels[rows], self.records[rows] = features, labels, records
        self.filled += len(records)

    def finish(self) -> None:
        assert self._features is not None
        if not self._all:
            order = self.records.argsort()
            self._features[:] = self._features[order]
            self.labels, self.records = self.labels[order], self.records[order]
        self._features.flush()  # type: ignore[attr-defined]


def _reserve(path: Path) -> None:
    """Allocate the disk's blocks now; a full disk would raise SIGBUS at some later row."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def _save_names(path: Path, names: Sequence[str]) -> None:
    with written(path) as file:
        file.write("[\n" + ",\n".join(json.dumps(name, ensure_ascii=False) for name in names) + "\n]\n")
