"""The service's own sessions and worker pool without processes: a test plays the workers, over real links."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import cast

import numpy as np

from common.spec import StreamSpec
from common.wire import messages
from common.wire.slab import Slab, SlotBatch
from loader.dataset import Dataset
from loader.service.session import Session
from loader.workers import link
from loader.workers.pool import WorkerPool, WorkerProcess

SPEC = StreamSpec(crop=1)


def ticket(number: int, count: int = 8, oldest: int = 0, done: bytes = b"", by_slot: bool = True) -> messages.Ticket:
    return messages.Ticket(number, bytes(16), 0, number * count, count, by_slot, oldest, done)


@contextlib.contextmanager
def paper_session(name: str = "a", credit: int = 1, now_us: Callable[[], int] = lambda: 0) -> Iterator[Session]:
    address = name.encode(), name.encode().ljust(16)
    session = Session(address, SPEC, cast(Dataset, None), 8, False, 1, credit, 0, now_us)
    yield session
    session.slab.close()


class _NoProcess:
    """Stands in for a subprocess.Popen."""

    pid = 0

    def kill(self) -> None:
        """Nothing is there to kill."""

    def wait(self) -> int:
        return 1


class PaperWorker:
    """The far end of a link, which writes a batch's `mark` to its pixels, or copies them, until it finishes.

    fd     of the service's end
    fill   in work
    """

    def __init__(self, end: socket.socket, fd: int) -> None:
        self._end, self.fd = end, fd
        self._slabs: dict[int, Slab] = {}
        self.fill: link.Task | None = None
        end.setblocking(False)
        link.send(end, link.Ready())

    def hear(self) -> None:
        """Take in what was sent, up to a fill, and begin to write. A worker does one thing after the other."""
        with contextlib.suppress(BlockingIOError):
            while self.fill is None and (received := link.receive(self._end)) is not None:
                message, fd = received
                if isinstance(message, link.Attach):
                    assert fd is not None
                    self._slabs[message.slab] = Slab(fd, message.size, message.slots)
                elif isinstance(message, link.Detach):
                    self._slabs.pop(message.slab).close()
                elif isinstance(message, link.Fill | link.Copy):
                    self.fill = message
                    self._write()

    def finish(self) -> None:
        self._write()
        link.send(self._end, link.Filled(1, 2, 3, self.fill.count if isinstance(self.fill, link.Fill) else 0))
        self.fill = None

    def fail(self, reason: str, record: int) -> None:
        link.send(self._end, link.Failed(record, reason))
        self.fill = None

    def crash(self) -> None:
        self._write()
        self.close()

    def close(self) -> None:
        self._end.close()
        for slab in self._slabs.values():
            slab.close()

    def _write(self) -> None:
        assert self.fill is not None
        for batch in map(self._batch, self.fill.places):
            if isinstance(self.fill, link.Copy):
                source = self._batch(self.fill.source)
                batch.images[:], batch.notes[:] = source.images, source.notes
            else:
                first, count = self.fill.first, self.fill.count
                batch.images[:] = mark(first)
                batch.notes["record"], batch.notes["label"] = np.arange(first, first + count), 0

    def _batch(self, place: link.Place) -> SlotBatch:
        assert self.fill is not None
        return self._slabs[place.slab].batch(place.slot, self.fill.spec, self.fill.count)


def mark(first: int) -> int:
    """The value that a worker writes to the pixels of the batch at this position."""
    return first + 1


class PaperPool(WorkerPool):
    """A pool of `PaperWorker`s: `staffed` by file descriptor of the service's end; `expected` of the disk so far."""

    def __init__(self, count: int) -> None:
        super().__init__({}, "", count, timeout_s=60)
        self.staffed: dict[int, PaperWorker] = {}
        self.expected: list[link.Expect] = []
        self.staff()

    def _spawn(self, place: int) -> WorkerProcess:
        ours, theirs = link.pair()
        self.staffed[ours.fileno()] = PaperWorker(theirs, ours.fileno())
        return WorkerProcess(cast("subprocess.Popen[bytes]", _NoProcess()), ours, place)

    def hear(self) -> None:
        for worker in self.staffed.values():
            worker.hear()

    def expect(self, worker: WorkerProcess, expected: link.Expect) -> None:
        self.expected.append(expected)
        super().expect(worker, expected)

    def heard_from(self) -> set[int]:
        """File descriptors of the workers that have told something."""
        return {worker.fileno() for worker in self.workers if connection.wait([worker.connection], 0)}

    @property
    def busy(self) -> list[PaperWorker]:
        return [worker for worker in self.staffed.values() if worker.fill is not None]

    def crash(self, worker: PaperWorker) -> None:
        self.staffed.pop(worker.fd).crash()

    def stop(self) -> None:
        super().stop()
        for worker in self.staffed.values():
            worker.close()
