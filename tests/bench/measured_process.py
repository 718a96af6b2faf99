"""Batches in a process of their own, so that no library's threads or memory disturb another's."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Self

from tests.bench.contenders import counted

_END_S, _LIMIT_S = 10.0, 120.0


class MeasuredProcess:
    """Takes batches, whose sizes `sizes` yields in a new process, for a while each time. Use in a `with` block."""

    def __init__(self, sizes: Callable[[], Iterator[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, sizes))  # no daemon: it may have workers
        self._process.start()
        theirs.close()

    def works(self) -> bool:
        """Return True if batches come; else its own process says why."""
        try:
            self.run(0.0)
        except EOFError:
            return False
        return True

    def run(self, seconds: float) -> float:
        """Images a second."""
        self.begin(seconds)
        return self.rate()

    def begin(self, seconds: float) -> None:
        self._end.send(seconds)

    def rate(self) -> float:
        """Wait for the images a second of what was begun. Raises EOFError if the process ended, or hangs."""
        if not self._end.poll(_LIMIT_S):
            raise EOFError
        rate: float = self._end.recv()
        return rate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._process.join(_END_S)
        self._process.kill()  # a library that does not end is left to itself
        self._process.join()


def _serve(end: Connection, sizes: Callable[[], Iterator[int]]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # for its workers: not all they run can be pickled
    coming = sizes()
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            end.send(counted(coming, end.recv())[1])
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(0)  # whatever threads a library has left
