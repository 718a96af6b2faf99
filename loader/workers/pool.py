"""Worker processes: started, given work, replaced when they crash, hang or are stopped; resized on request."""

import contextlib
import itertools
import logging
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.cli.log import RateLimiter
from common.errors import LoaderError
from common.wire.slab import Slab
from loader.dataset import Dataset
from loader.workers import child, link
from loader.workers.kept import KeptImages

log = logging.getLogger(__name__)

_START_LIMIT = 5  # failed starts in a row: the machine is at fault, not chance
_KILLED_SHARE = 0.1  # of a failed start, if another process killed it
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0  # after failed starts
NO_WORKER_LIMIT_S = 60.0  # the service ends after so long without a single worker


@dataclass(eq=False)
class WorkerProcess:
    """One process. `place` decides its core; a `retiring` one ends after its fill."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    place: int
    ready: bool = False
    retiring: bool = False
    killed_for: str = ""  # why we killed it
    fill: link.Task | None = None
    since: float = 0.0  # monotonic seconds, when the fill was given
    slabs: set[int] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return self.ready and self.fill is None and not self.retiring

    def fileno(self) -> int:
        return self.connection.fileno()


@dataclass(frozen=True)
class Finished:
    fill: link.Task
    reply: link.Filled | link.Touched | link.Failed


@dataclass(frozen=True)
class Crashed:
    """A fill whose worker crashed or was killed, to be retried."""

    fill: link.Task
    how: str


class WorkerPool:
    """`count` workers over `datasets`, by split; a fill that takes longer than `timeout_s` costs its worker's life.

    A worker that cannot be started leaves its place vacant for a while. Every method that may start one raises
    LoaderError if none could be started for long. A `pinned` worker stays on one core. All share `kept`, decoded images
    by split.

    crashes    of workers that could take work, so far
    failures   of workers to start
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        decoder: str,
        count: int,
        timeout_s: float,
        pinned: bool = False,
        kept: Mapping[str, KeptImages] | None = None,
    ) -> None:
        self._datasets, self._decoder, self._kept = datasets, decoder, kept or {}
        self.count, self._timeout_s = count, timeout_s
        self._cores = sorted(os.sched_getaffinity(0)) if pinned else []
        self._failed_starts, self._next_start_s = 0.0, 0.0
        self._last_ready_s: float | None = None
        self._log_limit = RateLimiter()
        self.workers: list[WorkerProcess] = []
        self.crashes = self.failures = 0

    def staff(self) -> None:
        vacant = self.count - sum(not worker.retiring for worker in self.workers)
        if vacant <= 0 or time.monotonic() < self._next_start_s:
            return
        taken = {worker.place for worker in self.workers}
        free = (place for place in itertools.count() if place not in taken)
        for place in itertools.islice(free, vacant):
            try:
                self.workers.append(self._spawn(place))
            except OSError as error:
                self._start_failed(f"{error.strerror or error}", 1)
                return

    def resize(self, count: int) -> None:
        """Grow or shrink; a busy worker that is too many ends after its fill."""
        self.count = count
        staying = [worker for worker in self.workers if not worker.retiring]
        for worker in sorted(staying, key=lambda worker: worker.fill is not None)[:-count]:
            worker.retiring = True
        for worker in [worker for worker in self.workers if worker.retiring and worker.fill is None]:
            self._retire(worker)
        self.staff()

    @property
    def all_ready(self) -> bool:
        return bool(self.workers) and all(worker.ready for worker in self.workers)

    @property
    def tasks(self) -> list[link.Task]:
        """Tasks of the busy workers; one killed is busy until it is gone."""
        return [worker.fill for worker in self.workers if worker.fill is not None]

    def idle(self) -> WorkerProcess | None:
        return next((worker for worker in self.workers if worker.idle), None)

    def give(self, worker: WorkerProcess, fill: link.Task, slabs: Mapping[int, Slab]) -> None:
        """Let `worker` fill slots of `slabs`, by number. If it is dead, `receive` will say so."""
        worker.fill, worker.since = fill, time.monotonic()
        try:
            for number in slabs.keys() - worker.slabs:
                slab = slabs[number]
                link.send(worker.connection, link.Attach(number, slab.size, slab.slots), slab.fd)
                worker.slabs.add(number)
            link.send(worker.connection, fill)
        except OSError:
            log.debug("worker %d died before it could be given work", worker.process.pid)

    def expect(self, worker: WorkerProcess, expected: link.Expect) -> None:
        """Let `worker` ask the disk for records."""
        with contextlib.suppress(OSError):
            link.send(worker.connection, expected)

    def forget(self, slab: int) -> None:
        for worker in self.workers:
            if slab in worker.slabs:
                worker.slabs.remove(slab)
                try:
                    link.send(worker.connection, link.Detach(slab))
                except OSError:
                    continue  # it is dead, and `receive` will say so

    def receive(self, worker: WorkerProcess) -> Finished | Crashed | None:
        """Hear a readable worker: the outcome of its fill, if it has one. A dead one is replaced."""
        received = link.receive(worker.connection)
        if received is None:
            return self._replace(worker)
        message, _ = received
        if isinstance(message, link.Ready):
            worker.ready = True
            self._failed_starts, self._last_ready_s = 0.0, time.monotonic()
            return None
        if worker.fill is None:  # it failed during startup; its end follows
            assert isinstance(message, link.Failed)
            worker.killed_for = message.reason
            return None
        assert isinstance(message, link.Filled | link.Touched | link.Failed)
        finished = Finished(worker.fill, message)
        worker.fill = None
        if worker.retiring:
            self._retire(worker)
        return finished

    def end_hung(self) -> Iterator[int]:
        """Kill workers whose fill takes too long, and yield their process ids."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.fill is not None and now - worker.since > self._timeout_s:
                worker.since = now
                worker.killed_for = f"after more than {self._timeout_s:g} s over one ticket (--worker-timeout)"
                worker.process.kill()
                yield worker.process.pid

    def end_stopped(self) -> None:
        """Kill workers that a signal has stopped: their fills would wait with them."""
        for worker in self.workers:
            if child.is_stopped(worker.process.pid):
                worker.killed_for = "stopped by a signal"
                worker.process.kill()

    def stop(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.kill()  # they have no state worth losing
        for worker in self.workers:
            worker.process.wait()
        self.workers = []

    def hand_over_anew(self, split: str) -> None:
        """Let all workers open the split's file again, at its version by now."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                self._hand_over_file(worker.connection, split)

    def _spawn(self, place: int) -> WorkerProcess:
        core = [str(self._cores[place % len(self._cores)])] if self._cores else []
        process, connection = child.started("loader.workers.worker", *core)
        self._hand_over_files(connection)
        return WorkerProcess(process, connection, place)

    def _hand_over_files(self, connection: socket.socket) -> None:
        """Send the files that the service opened, and the decoded images kept."""
        with contextlib.suppress(OSError):  # it has ended already, and `receive` will say so
            for split in self._datasets:
                self._hand_over_file(connection, split)
            for split, kept in self._kept.items():
                link.send(connection, link.Keep(split, kept.records), kept.fd)

    def _hand_over_file(self, connection: socket.socket, split: str) -> None:
        dataset = self._datasets[split]
        file = link.Open.of(split, dataset.path, self._decoder, dataset.version)
        link.send(connection, file, dataset.file.fd)

    def _replace(self, worker: WorkerProcess) -> Crashed | None:
        worker.connection.close()
        worker.process.kill()
        status = worker.process.wait()
        how = worker.killed_for or child.ending(status)
        self.workers.remove(worker)
        if worker.retiring:
            return Crashed(worker.fill, how) if worker.fill is not None else None
        if worker.ready:
            log.warning("worker %d ended (%s); another takes its place", worker.process.pid, how)
            self._last_ready_s = time.monotonic()
            self.crashes += 1
        else:
            self._start_failed(f"it ended early, {how}", _KILLED_SHARE if status == -signal.SIGKILL else 1)
        self.staff()
        return Crashed(worker.fill, how) if worker.fill is not None else None

    def _start_failed(self, reason: str, weight: float) -> None:
        """Pause, the longer the more starts failed in a row. Raises LoaderError if it is hopeless."""
        now = time.monotonic()
        self.failures += 1
        self._failed_starts += weight
        without_s = 0.0 if any(worker.ready for worker in self.workers) else now - (self._last_ready_s or -math.inf)
        if self._failed_starts >= _START_LIMIT and without_s >= NO_WORKER_LIMIT_S:
            raise LoaderError(f"workers do not start: again and again this fails, none is left; the last: {reason}")
        doubled = _FIRST_PAUSE_S * 2 ** min(self._failed_starts, 10)
        pause_s = min(doubled, _LONGEST_PAUSE_S) if self._failed_starts >= 1 else 0.0
        self._next_start_s = now + pause_s
        log.log(
            logging.WARNING if self._log_limit.allows("start") else logging.DEBUG,
            "a worker could not be started: %s; tried again in %.1f s, with %d of %d meanwhile",
            reason, pause_s, len(self.workers), self.count,
        )  # fmt: skip

    def _retire(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        worker.connection.close()
        worker.process.kill()
        worker.process.wait()
