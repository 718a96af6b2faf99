"""What a person sees of a run: one line that renews itself on a terminal, a plain line now and then elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

PLAIN_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Now:
    """Where training stands. Loss, top-1 error, speed and `wait_share` (0 to 1) are of the epoch so far.

    eta_s   None where it is not known
    """

    epoch: int
    epochs: int
    step_of_epoch: int
    steps_per_epoch: int
    images_per_s: float
    loss: float
    error: float
    wait_share: float
    eta_s: float | None

    def line(self) -> str:
        """The line without its end; epochs are counted from 1 for people."""
        eta = "" if self.eta_s is None else f"  ETA {duration(self.eta_s)}"
        return (
            f"epoch {self.epoch + 1}/{self.epochs}  step {self.step_of_epoch}/{self.steps_per_epoch}"
            f"  {self.images_per_s:,.0f} images/s  loss {self.loss:.3f}  error {percent(self.error)}"
            f"  waiting for data {percent(self.wait_share)}{eta}"
        )


class Progress:
    """Writes to `stream` (stderr): `update` as often as it likes, `line` for what must stay on the screen."""

    def __init__(self, stream: TextIO | None = None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._is_terminal else PLAIN_INTERVAL_S
        self._now_s = now_s
        self._next_s = now_s() if self._is_terminal else now_s() + PLAIN_INTERVAL_S
        self._drawn = False

    def is_due(self) -> bool:
        """Whether `show` would write: what to show costs something to work out."""
        return self._now_s() >= self._next_s

    def show(self, text: str) -> None:
        """Renew the line (terminal) or write one more (elsewhere), if it is time to."""
        if not self.is_due():
            return
        self._next_s = self._now_s() + self._interval_s
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[K{text[: columns - 1]}")
            self._drawn = True
        else:
            self._write(text + "\n")

    def line(self, text: str) -> None:
        """A line that stays: the end of an epoch, where a checkpoint lies."""
        self.clear()
        self._write(text + "\n")

    def clear(self) -> None:
        """Take the renewed line away, before something else writes to the terminal."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def percent(share: float) -> str:
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
