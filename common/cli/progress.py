"""Progress of a long job: one line renewed in place on a terminal, a plain line now and then elsewhere."""

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO

from . import console

PLAIN_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.1


class ProgressLine:
    """A progress line, erased at the end of a `with` block."""

    def __init__(self, stream: TextIO | None = None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = console.is_terminal(self._stream)
        self._interval_s = TERMINAL_INTERVAL_S if self._is_terminal else PLAIN_INTERVAL_S
        self._now_s = now_s
        self._next_s = now_s() if self._is_terminal else now_s() + PLAIN_INTERVAL_S
        self._drawn = False

    def is_due(self) -> bool:
        return self._now_s() >= self._next_s

    def show(self, text: str) -> None:
        if not self.is_due():
            return
        self._next_s = self._now_s() + self._interval_s
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns
            text = console.shown(text)[: columns - 1]  # it must not wrap
            console.draw(self._stream, f"\r\x1b[K{text}", may_be_left_out=True)
            self._drawn = True
        else:
            self._write(text)

    def line(self, text: str) -> None:
        self.clear()
        self._write(text)

    def clear(self) -> None:
        if self._drawn:
            console.draw(self._stream, "\r\x1b[K", may_be_left_out=True)
            self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.clear()

    def _write(self, text: str) -> None:
        console.draw(self._stream, console.shown(text) + "\n")


class ProgressBar(ProgressLine):
    def __init__(
        self,
        what: str,
        total: int,
        done: int = 0,
        stream: TextIO | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, now_s=now_s)
        self._what, self._total, self._first = what, total, done
        self._began_s = now_s()

    def count(self, done: int, note: str = "") -> None:
        if self.is_due():
            self.show(self._counted(done) + note)

    def _counted(self, done: int) -> str:
        rate = (done - self._first) / max(self._now_s() - self._began_s, 1e-9)
        left = f", {duration((self._total - done) / rate)} left" if rate > 0 else ""
        share = 100 * done / max(self._total, 1)
        return f"{self._what}: {done:,} of {self._total:,} ({share:.0f} %), {rate:,.0f} a second{left}"


@contextlib.contextmanager
def showing_progress() -> Iterator[ProgressLine]:
    handlers = list(logging.getLogger().handlers)
    with ProgressLine() as progress:

        def make_way(_record: logging.LogRecord) -> bool:
            progress.clear()
            return True

        for handler in handlers:
            handler.addFilter(make_way)
        try:
            yield progress
        finally:
            for handler in handlers:
                handler.removeFilter(make_way)


def percent(share: float) -> str:
    """`12.3 %` for 0.123."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`, `3d04h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
