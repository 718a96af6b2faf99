"""Limits of a client's waits, and its warnings meanwhile: in programs without logging of their own too."""

import logging
import statistics
import time
from collections import deque
from collections.abc import Sequence

from ..errors import LoaderTimeout
from .host import Host

log = logging.getLogger(__name__)

SAID_FIRST_S = 3.0  # how long a wait lasts before it is said; then each time that it has doubled
WARNED_S = 30.0  # and before that is a warning, if a service answers
PATIENCE = 10  # times timeout_s that a service which is there may owe an answer

_REMEMBERED = 64
_FEW = 8  # answers that tell too little
_SOONEST_S = 0.05  # what is quicker than this is nobody's concern
_OVERDUE_S = 1.0, 5.0  # soonest and latest


class Wait:
    """One wait for the services.

    awaited   what for, at the moment
    """

    def __init__(self, awaited: str, timeout_s: float) -> None:
        self.awaited, self._timeout_s = awaited, timeout_s
        self.started = time.monotonic()
        self._say_after_s = SAID_FIRST_S

    def check(self, hosts: Sequence[Host]) -> None:
        """Say it if it is due. Raises LoaderTimeout in the end."""
        now = time.monotonic()
        silent_s = now - max([self.started, *(host.heard for host in hosts)])
        self._end_if_over(hosts, silent_s, now - self.started)
        if now - self.started >= self._say_after_s:
            self._say_after_s = 2 * (now - self.started)
            self._say(hosts, now - self.started)

    def _say(self, hosts: Sequence[Host], waited_s: float) -> None:
        """A warning reaches stderr when nobody has set up logging."""
        silent = all(host.silent or not host.reachable for host in hosts)
        level = logging.WARNING if silent or waited_s >= WARNED_S else logging.INFO
        names = _names(hosts)
        found = f"no word from {names}; is alexnet-loader running there?" if silent else f"{names} answers"
        log.log(level, "waiting for the loader: %s for %.0f s; %s", self.awaited, waited_s, found)

    def _end_if_over(self, hosts: Sequence[Host], silent_s: float, waited_s: float) -> None:
        if silent_s > self._timeout_s:
            raise LoaderTimeout(
                f"no word from {_names(hosts)} for {silent_s:.0f} s while waiting for {self.awaited};"
                " is alexnet-loader running there? (timeout_s, --loader-timeout, changes how long is waited)"
            )
        if waited_s > PATIENCE * self._timeout_s:
            raise LoaderTimeout(
                f"{_names(hosts)} answers, but did not deliver {self.awaited} in {waited_s:.0f} s; its log may say why"
                f" (that is {PATIENCE} times timeout_s, --loader-timeout)"
            )


def _names(hosts: Sequence[Host]) -> str:
    return ", ".join(
        f"{host.endpoint} (which refuses: {host.refusal})" if host.refusal else host.endpoint for host in hosts
    )


class AnswerTimes:
    """How long the last answers took, from TICKET to BATCH, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def late_s(self) -> float:
        """Age at which a ticket is late, and a host with nothing to do is asked for it too: three times the median."""
        if len(self._seconds) < _FEW:
            return _OVERDUE_S[0]
        return max(_SOONEST_S, 3 * statistics.median(self._seconds))

    @property
    def overdue_s(self) -> float:
        """Age at which the ticket, or its answer, counts as lost: ten times the median, 1 to 5 seconds.

        Too soon does no harm: a service that still has the ticket takes it for the same.
        """
        if len(self._seconds) < _FEW:
            return _OVERDUE_S[1]
        soonest_s, latest_s = _OVERDUE_S
        return min(max(soonest_s, 10 * statistics.median(self._seconds)), latest_s)
