"""The worker processes: started, given work, replaced when they die or hang.

Workers are started as programs of their own, not forked: nothing of the service, LMDB's and ZeroMQ's state least of
all, is alive in them.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import LoaderError
from common.slab import Slab
from loader import link

log = logging.getLogger(__name__)

_START_LIMIT = 5  # workers in a row that die before they are ready: the machine is at fault, not chance


@dataclass(eq=False)
class Worker:
    process: subprocess.Popen[bytes]
    end: socket.socket
    ready: bool = False
    fill: link.Fill | None = None
    since: float = 0.0  # monotonic seconds at which the fill was given
    slabs: set[int] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return self.ready and self.fill is None

    def fileno(self) -> int:
        return self.end.fileno()


@dataclass(frozen=True)
class Finished:
    """A fill that a worker ended: complete if `failure` is None, else refused for that reason."""

    fill: link.Fill
    failure: link.Failed | None


@dataclass(frozen=True)
class Lost:
    """A fill whose worker died or was ended, so that another must do it again."""

    fill: link.Fill
    how: str


class WorkerPool:
    """`count` workers over the data sets under `data`; a fill that takes longer than `timeout_s` ends its worker.

    pinned   each worker stays on one core, in turn of those the service may use
    """

    def __init__(self, data: Path, count: int, timeout_s: float, pinned: bool = False) -> None:
        self._data, self._count, self._timeout_s = data, count, timeout_s
        self._cores = sorted(os.sched_getaffinity(0)) if pinned else []
        self._failed_starts = 0
        self.workers: list[Worker] = []

    def start(self) -> None:
        self.workers = [self._spawn(place) for place in range(self._count)]

    @property
    def all_ready(self) -> bool:
        return all(worker.ready for worker in self.workers)

    def idle(self) -> Worker | None:
        return next((worker for worker in self.workers if worker.idle), None)

    def give(self, worker: Worker, fill: link.Fill, slab: Slab) -> None:
        """Let `worker` fill a slot of `slab`. If it is dead already, `receive` will say so."""
        worker.fill, worker.since = fill, time.monotonic()
        try:
            if fill.slab not in worker.slabs:
                link.send(worker.end, link.Attach(fill.slab, slab.size, slab.slots), slab.fd)
                worker.slabs.add(fill.slab)
            link.send(worker.end, fill)
        except OSError:
            log.debug("worker %d died before it could be given work", worker.process.pid)

    def forget(self, slab: int) -> None:
        """No more work will come for this slab."""
        for worker in self.workers:
            if slab in worker.slabs:
                worker.slabs.remove(slab)
                try:
                    link.send(worker.end, link.Detach(slab))
                except OSError:
                    continue  # it is dead, and `receive` will say so

    def receive(self, worker: Worker) -> Finished | Lost | None:
        """What a readable worker has to say; None where it concerns no fill. A dead one is replaced."""
        received = link.receive(worker.end)
        if received is None:
            return self._replace(worker)
        word, _ = received
        if isinstance(word, link.Ready):
            worker.ready = True
            self._failed_starts = 0
            return None
        if worker.fill is None:  # it could not even start: the reason is for the log, its end follows
            assert isinstance(word, link.Failed)
            raise LoaderError(f"a worker cannot work: {word.reason}")
        assert isinstance(word, link.Filled | link.Failed)
        finished = Finished(worker.fill, word if isinstance(word, link.Failed) else None)
        worker.fill = None
        return finished

    def end_hung(self) -> Iterator[int]:
        """Kill workers whose fill takes too long, yielding their process ids; `receive` sees them die."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.fill is not None and now - worker.since > self._timeout_s:
                worker.since = now
                worker.process.kill()
                yield worker.process.pid

    def stop(self) -> None:
        """End all workers and wait for them."""
        for worker in self.workers:
            worker.end.close()
            worker.process.kill()  # they own nothing that could be lost
        for worker in self.workers:
            worker.process.wait()
        self.workers = []

    def _spawn(self, place: int) -> Worker:
        core = [str(self._cores[place % len(self._cores)])] if self._cores else []
        ours, theirs = link.pair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "loader.worker", str(theirs.fileno()), os.fspath(self._data), *core],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a pool of threads nobody needs
                stdin=subprocess.DEVNULL,
            )
        return Worker(process, ours)

    def _replace(self, worker: Worker) -> Lost | None:
        worker.end.close()
        worker.process.kill()
        how = _ending(worker.process.wait())
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _START_LIMIT:
                raise LoaderError(f"workers do not start: {self._failed_starts} in a row ended early, the last {how}")
        log.warning("worker %d ended (%s); another takes its place", worker.process.pid, how)
        place = self.workers.index(worker)
        self.workers[place] = self._spawn(place)
        return Lost(worker.fill, how) if worker.fill is not None else None


def _ending(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit code {status}"
