"""The processes of the packing, one pipe to each, and their answers in order.

They are spawned, not forked: the parent has LMDB open. At most `AHEAD` chunks for each process are under way or wait
for an earlier one, which bounds the memory.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from types import TracebackType
from typing import Any, Self

from common.errors import PackError
from loader.children import SAFE_PATH, environment
from loader.packing import pack_worker
from loader.packing.pack_worker import Failure, Items, Packed
from loader.packing.sources import Source

AHEAD = 4
_DEPTH = 2  # chunks in a process's pipe: it never waits for the parent's commit
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a process a core
_GO_ON = "what is committed stays: run the same command again to go on"


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    working_on: c_int64
    chunks: deque[int] = field(default_factory=deque)


class PackPool:
    """`jobs` processes that pack items of `source`. A context manager; leaving it ends them, whatever they do."""

    def __init__(self, source: Source, jobs: int) -> None:
        self._source, self._jobs = source, jobs
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        with environment(SAFE_PATH):
            resource_tracker.ensure_running()  # starting it unblocks signals, so not within the block below
        try:
            with environment(SAFE_PATH | _ONE_THREAD), _sigint_held():
                for _ in range(self._jobs):
                    self._workers.append(self._start())
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        working_on: Any = RawValue(c_int64, -1)
        process = context.Process(
            target=pack_worker.run, args=(theirs, self._source, working_on), name="alexnet-pack worker", daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, working_on)

    def results(self, chunks: Sequence[Items]) -> Iterator[Packed]:
        """What became of each chunk, in order. PackError if a process dies or a picture cannot be read."""
        waiting: dict[int, Packed] = {}
        given = 0
        for wanted in range(len(chunks)):
            while wanted not in waiting:
                given = self._hand_out(chunks, given, wanted)
                for worker in self._ready():
                    packed = self._receive(worker)
                    waiting[worker.chunks.popleft()] = packed
            yield waiting.pop(wanted)

    def _hand_out(self, chunks: Sequence[Items], given: int, wanted: int) -> int:
        """Fill the processes' pipes as far as the window allows; returns the first chunk not given."""
        end = min(len(chunks), wanted + AHEAD * self._jobs)
        for depth in range(1, _DEPTH + 1):
            for worker in self._workers:
                if given < end and len(worker.chunks) < depth:
                    self._send(worker, chunks[given])
                    worker.chunks.append(given)
                    given += 1
        return given

    def _send(self, worker: _Worker, items: Items) -> None:
        try:
            worker.pipe.send(items)
        except OSError:
            raise self._death(worker) from None

    def _ready(self) -> list[_Worker]:
        """Waits for at least one answer, or death: the pipe of a dead process ends."""
        busy = [worker for worker in self._workers if worker.chunks]
        ready = connection.wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def _receive(self, worker: _Worker) -> Packed:
        try:
            answer: Packed | Failure = worker.pipe.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if isinstance(answer, Failure):
            raise PackError(f"{self._source.name(answer.item)} cannot be read: {answer.cause}; {_GO_ON}")
        return answer

    def _death(self, worker: _Worker) -> PackError:
        worker.process.join(timeout=10)
        code = worker.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        item = worker.working_on.value
        where = f" while it packed {self._source.name(item)}" if item >= 0 else ""
        return PackError(f"a worker process {how}{where}; {_GO_ON}")

    def close(self) -> None:
        """They hold nothing worth a farewell: records go through the parent."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers.clear()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


@contextmanager
def _sigint_held() -> Iterator[None]:
    """A Ctrl-C while processes start comes after it; they inherit the mask, so none dies of it with a traceback.

    The mask is this thread's alone: the signal may reach another thread, and Python then still runs the handler here.
    """
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt
