"""How far packing or verifying is: a count, its rate and the remaining time."""

import time
from collections.abc import Callable
from typing import TextIO

from common.cli.progress import ProgressLine, duration


class Progress(ProgressLine):
    """`done` of `total` so far; rate and remaining time are of this run, which began at the `done` given first."""

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
        """Cheap to call often: it writes only when it is time."""
        if self.is_due():
            self.show(self._counted(done) + note)

    def _counted(self, done: int) -> str:
        rate = (done - self._first) / max(self._now_s() - self._began_s, 1e-9)
        left = f", {duration((self._total - done) / rate)} left" if rate > 0 else ""
        share = 100 * done / max(self._total, 1)
        return f"{self._what}: {done:,} of {self._total:,} ({share:.0f} %), {rate:,.0f} a second{left}"
