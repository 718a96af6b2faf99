"""CPU contention."""

import contextlib
import time
from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")  # ns on a core, ns ready and without one, times on a core


class Contention:
    """Share of the time since `begin` in which the calling thread was ready to run but had no core."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._began_s, self._before_s = time.monotonic(), _kept_waiting_s()

    @property
    def share(self) -> float:
        """0 to 1; 0 if the kernel does not report it."""
        waited_s = _kept_waiting_s() - self._before_s
        return min(1.0, waited_s / max(time.monotonic() - self._began_s, 1e-9))


def _kept_waiting_s() -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    return 0.0
