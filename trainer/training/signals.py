"""Being asked to stop: SIGTERM and Ctrl-C end the step, not the process; a second one ends the process."""

import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class StopRequested(Exception):
    """SIGTERM or SIGINT arrived; raised where nothing is half done."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """A `with` block in which the two signals are only noted, to be acted on between two steps.

    Waiting for data is another matter: `breakable` passes batches on, and lets a signal break the wait for the next one
    off at once. The loop is between two steps then, so nothing is lost, and a silent loader does not hold up a Ctrl-C.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.received is not None:
            raise StopRequested(self.received)

    def breakable(self, items: Iterator[T]) -> Iterator[T]:
        """`items`, each wait for the next of which ends in StopRequested when a signal comes."""
        while True:
            self._waiting = True
            try:
                self._check()  # after the mark, so that no signal falls between the two
                item = next(items, None)
            finally:
                self._waiting = False
            if item is None:
                return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if self._waiting:
            raise StopRequested(number)
