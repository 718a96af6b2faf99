"""Requests to stop: Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the step, not the process.

A second Ctrl-C or SIGTERM ends the process. SIGHUP (from a terminal and its shell) and SIGUSR1 (from a batch system)
may come repeatedly for one event, so they never do. Nor does SIGTERM for a while in a rank: a batch system sends it to
every process, and the launcher passes it on, perhaps once the rank has saved.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from common.client.batch import Batch
from trainer.ranks.place import is_rank

_URGENT = (signal.SIGINT, signal.SIGTERM)
_REPEATED = (signal.SIGHUP, signal.SIGUSR1)
_SAME_WISH_S = 30.0  # in a rank, for a SIGTERM after the first signal


class StopRequested(Exception):
    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """A `with` block in which these signals are recorded, and acted on between two steps.

    A rank stays deaf to the same wish after the block. Ignored SIGHUP and SIGUSR1 stay ignored, as under nohup.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.received: int | None = None
        self._now_s = now_s
        self._first_s: float | None = None  # when the first signal came
        self._urgent = 0  # Ctrl-C and SIGTERM so far
        self._waiting = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (*_URGENT, *_REPEATED):
            if number in _REPEATED and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            if self.received is None or not is_rank() or number == signal.SIGINT:
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.received is not None:
            raise StopRequested(self.received)

    def breakable(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; a signal ends a wait with StopRequested."""
        while True:
            self._waiting = True
            try:
                self._check()  # after the mark, so that no signal falls between the two
                batch = next(batches, None)
            finally:
                self._waiting = False
            if batch is None:
                return
            yield batch

    def _is_same_wish(self, number: int) -> bool:
        if self._first_s is None:
            self._first_s = self._now_s()
            return False
        return is_rank() and number == signal.SIGTERM and self._now_s() - self._first_s < _SAME_WISH_S

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_same_wish(number):
            return
        self._urgent += number in _URGENT
        if self._urgent > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.received is not None:
            return
        self.received = number
        if self._waiting:
            raise StopRequested(number)
