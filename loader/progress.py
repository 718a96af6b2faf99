"""How far a long job is: one line that is rewritten on a terminal, a plain line every few seconds elsewhere."""

import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO

_TERMINAL_INTERVAL_S = 0.2
_PLAIN_INTERVAL_S = 5.0


class Progress:
    """`done` of `total` so far, rate and remaining time of this run. A context manager, which ends the line."""

    def __init__(self, what: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self._what, self._total, self._first = what, total, done
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval_s = _TERMINAL_INTERVAL_S if self._terminal else _PLAIN_INTERVAL_S
        self._began_s = self._shown_s = time.monotonic()
        self._drawn = False

    def show(self, done: int, note: str = "") -> None:
        """Cheap to call often: it writes only when it is time."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self._interval_s:
            return
        self._shown_s = now_s
        line = self._line(done, now_s) + note
        if self._terminal:
            self._stream.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")  # it must not wrap
            self._drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def _line(self, done: int, now_s: float) -> str:
        rate = (done - self._first) / max(now_s - self._began_s, 1e-9)
        left = f", {_duration((self._total - done) / rate)} left" if rate > 0 else ""
        share = 100 * done / max(self._total, 1)
        return f"{self._what}: {done:,} of {self._total:,} ({share:.0f} %), {rate:,.0f} a second{left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
