"""The digests of a stream, recomputed from LMDB alone, in processes: no service, no client, no socket."""

from collections.abc import Callable, Iterator
from ctypes import c_int64
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.digest import Digests
from common.errors import AlexNetError, DatasetError
from common.names import readable
from common.spec import StreamSpec
from common.wire.slab import Replaced, SlotBatch, slot_bytes
from loader.dataset import Dataset
from loader.process_pool import Died, ProcessPool
from loader.workers.augment import Scratch
from loader.workers.fill import Filler


@dataclass(frozen=True, slots=True)
class Part:
    epoch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """The images' digests (uint64 n) and records at a part's positions; names of the replaced and those replacing."""

    part: Part
    digests: Digests
    records: list[int]
    replaced: list[Replaced]
    names: dict[int, str]


class Auditor:
    def __init__(self, path: Path, digest: bytes, spec: StreamSpec, batch_size: int) -> None:
        """Raises DatasetError if the file at `path` no longer holds the dataset of that digest."""
        dataset = Dataset(path)
        if dataset.digest != digest:
            raise DatasetError(f"{path} holds another dataset than when the audit began; start again")
        self._spec, self._filler = spec, Filler(dataset, Scratch())
        self._slot = np.empty(slot_bytes(spec, batch_size), np.uint8).data

    def audit(self, part: Part) -> Audited:
        """Raises BadRecord, DatasetError."""
        batch = SlotBatch(self._slot, self._spec, part.count)
        self._filler.expect(self._spec, part.epoch, part.first, part.count)
        self._filler.fill(self._spec, part.epoch, part.first, batch, digests=True)
        records, replaced = batch.notes["record"].tolist(), batch.replaced(part.first)
        shown = [each for position, record, _ in replaced for each in (record, records[position - part.first])]
        names = {record: readable(self._filler.dataset.name(record)) for record in shown}
        return Audited(part, batch.notes["digest"].copy(), records, replaced, names)


def audit(
    path: Path, digest: bytes, spec: StreamSpec, batch_size: int, parts: list[Part], processes: int
) -> Iterator[Audited]:
    """Audit each part, in order. Raises BadRecord, DatasetError."""
    start = partial(_start, path, digest, spec, batch_size)
    processes = min(processes, len(parts))
    if processes == 1:
        yield from map(start(c_int64()), parts)
        return
    try:
        with ProcessPool(start, processes) as pool:
            yield from pool.map(parts)
    except Died as died:
        raise AlexNetError(f"a process of the audit {died.how}; is there enough memory for them? (--jobs)") from None


def _start(path: Path, digest: bytes, spec: StreamSpec, batch_size: int, _: c_int64) -> Callable[[Part], Audited]:
    return Auditor(path, digest, spec, batch_size).audit
