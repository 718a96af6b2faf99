"""An ordered map over spawned processes, with a pipe to each.

Spawned, not forked: the parent has LMDB open. A process ends when its pipe does. At most `AHEAD` tasks a process are in
flight or wait for an earlier one.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any, Generic, Self, TypeVar

from common.cli import console
from common.errors import AlexNetError

AHEAD = 4
_DEPTH = 2  # tasks in a process's pipe, so that it never waits for the parent
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # else `python -c` imports what lies in the folder that the command is started in
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a process a core

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]


class Died(Exception):
    """A process is gone without an answer. `item` is the last number it noted, or -1."""

    def __init__(self, how: str, item: int) -> None:
        super().__init__(how)
        self.how, self.item = how, item


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    item: c_int64
    tasks: deque[int] = field(default_factory=deque)


class ProcessPool(Generic[Task, Result]):
    """`processes` processes as a context manager; leaving it kills them.

    `start` is picklable; called once in each process, it returns the function of a task. The number it is given is
    shared: what the process notes there is in Died.
    """

    def __init__(self, start: Callable[[c_int64], Work[Task, Result]], processes: int) -> None:
        self._start, self._processes = start, processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        with _environment(_SAFE_PATH):
            resource_tracker.ensure_running()  # starting it unblocks signals, so not within the block below
        try:
            with _environment(_SAFE_PATH | _ONE_THREAD), _sigint_held():
                for _ in range(self._processes):
                    self._workers.append(self._started())
        except BaseException:
            self.close()
            raise
        return self

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        item: Any = RawValue(c_int64, -1)
        process = context.Process(target=_serve, args=(theirs, self._start, item), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, item)

    def map(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield the result of each task, in order. Raises the AlexNetError of a task in its turn, and Died at once."""
        waiting: dict[int, Result | AlexNetError] = {}
        given = 0
        for wanted in range(len(tasks)):
            while wanted not in waiting:
                given = self._hand_out(tasks, given, wanted)
                for worker in self._ready():
                    result = self._receive(worker)
                    waiting[worker.tasks.popleft()] = result
            result = waiting.pop(wanted)
            if isinstance(result, AlexNetError):
                raise result
            yield result

    def _hand_out(self, tasks: Sequence[Task], given: int, wanted: int) -> int:
        end = min(len(tasks), wanted + AHEAD * self._processes)
        for depth in range(1, _DEPTH + 1):
            for worker in self._workers:
                if given < end and len(worker.tasks) < depth:
                    self._send(worker, tasks[given])
                    worker.tasks.append(given)
                    given += 1
        return given

    def _send(self, worker: _Worker, task: Task) -> None:
        try:
            worker.pipe.send(task)
        except OSError:
            raise _death(worker) from None

    def _ready(self) -> list[_Worker]:
        busy = [worker for worker in self._workers if worker.tasks]
        ready = connection.wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def _receive(self, worker: _Worker) -> Result | AlexNetError:
        try:
            answer: Result | AlexNetError = worker.pipe.recv()
        except (EOFError, OSError):
            raise _death(worker) from None
        return answer

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers.clear()

    def __exit__(self, *_: object) -> None:
        self.close()


def _death(worker: _Worker) -> Died:
    worker.process.join(timeout=10)
    code = worker.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
    return Died(how, worker.item.value)


def _serve(pipe: connection.Connection, start: Callable[[c_int64], Work[Task, Result]], item: c_int64) -> None:
    console.take_over()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    work: Work[Task, Result] | None = None
    while True:
        try:
            task = pipe.recv()
            try:
                work = work or start(item)
                answer: Result | AlexNetError = work(task)
            except AlexNetError as error:
                answer = error
            pipe.send(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` within the block: the only way to tell a spawned process anything before it imports."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Delay a Ctrl-C until the processes are started; they inherit the mask, so none dies of it with a traceback.

    The signal may reach another thread, and Python then still runs the handler here.
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
