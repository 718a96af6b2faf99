"""What a stream delivers, computed anew from LMDB alone: no service, no client, no socket.

Batches are shared out to processes and come back in order. What comes back is digests, not pixels.
"""

import functools
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from common.digest import Digests
from common.errors import AlexNetError, DatasetError
from common.spec import StreamSpec
from common.wire.slab import Replaced, SlotBatch, slot_bytes
from loader.children import SAFE_PATH, environment
from loader.dataset import Dataset
from loader.workers.augment import Scratch
from loader.workers.fill import Filler

_AHEAD = 3  # batches given out for each process


@dataclass(frozen=True, slots=True)
class Part:
    """Positions first..first + count - 1 of an epoch."""

    epoch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """What stands at the positions of a part: the picture's digests (uint64 n), and its records (int64 n)."""

    part: Part
    digests: Digests
    records: list[int]
    replaced: list[Replaced]


class Auditor:
    """Fills parts of up to `batch_size` pictures in memory of its own."""

    def __init__(self, path: Path, digest: bytes, spec: StreamSpec, batch_size: int) -> None:
        """Raises DatasetError: the file at `path` does not hold the data set of that digest any more."""
        dataset = Dataset(path)
        if dataset.digest != digest:
            raise DatasetError(f"{path} holds another data set than when the audit began; begin again")
        self._spec, self._filler = spec, Filler(dataset, Scratch())
        self._slot = np.empty(slot_bytes(spec, batch_size), np.uint8).data

    def audit(self, part: Part) -> Audited:
        """Raises BadRecord, DatasetError."""
        batch = SlotBatch(self._slot, self._spec, part.count)
        self._filler.fill(self._spec, part.epoch, part.first, batch, digests=True)
        return Audited(part, batch.notes["digest"].copy(), batch.notes["record"].tolist(), batch.replaced(part.first))


def audit(
    path: Path, digest: bytes, spec: StreamSpec, batch_size: int, parts: list[Part], processes: int
) -> Iterator[Audited]:
    """Each part of the split in `path`, of that digest, in order, by so many processes.

    Raises BadRecord, DatasetError.
    """
    if min(processes, len(parts)) == 1:
        auditor = Auditor(path, digest, spec, batch_size)
        yield from map(auditor.audit, parts)
        return
    context = get_context("spawn")  # nothing of LMDB may be alive in them
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with environment(SAFE_PATH):
        pool = ProcessPoolExecutor(processes, context, initializer=signal.signal, initargs=quiet)
    try:
        yield from _in_order(pool, path, digest, spec, batch_size, parts, ahead=_AHEAD * processes)
    except BrokenProcessPool:
        raise AlexNetError("a process of the audit was killed; is there enough memory for them? (--jobs)") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    path: Path,
    digest: bytes,
    spec: StreamSpec,
    batch_size: int,
    parts: list[Part],
    ahead: int,
) -> Iterator[Audited]:
    given: deque[Future[Audited]] = deque()
    for part in parts:
        with environment(SAFE_PATH):  # this may start a process
            given.append(pool.submit(_audit_part, path, digest, spec, batch_size, part))
        if len(given) >= ahead:
            yield given.popleft().result()
    while given:
        yield given.popleft().result()


def _audit_part(path: Path, digest: bytes, spec: StreamSpec, batch_size: int, part: Part) -> Audited:
    return _auditor(path, digest, spec, batch_size).audit(part)


@functools.cache
def _auditor(path: Path, digest: bytes, spec: StreamSpec, batch_size: int) -> Auditor:
    """The one of this process."""
    return Auditor(path, digest, spec, batch_size)
