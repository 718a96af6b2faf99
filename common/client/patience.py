"""Limits of waiting: adaptive ones for retries and hedges, the user's own for errors."""

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Sequence

from ..errors import LoaderTimeout
from .host import Host

log = logging.getLogger(__name__)

SAID_FIRST_S = 3.0  # a wait is logged after so long, then whenever it has doubled,
WARNED_S = 30.0  # as a warning from here on, or at once if no service responds
PATIENCE = 10  # a live service may take this many timeouts

_REMEMBERED = 64  # replies
_FEW = 8  # replies that tell too little
_SOONEST_S = 0.05  # no hedge before that
_EXPIRY_S = 1.0, 5.0  # soonest and latest


class Wait:
    def __init__(self, awaited: str, timeout_s: float) -> None:
        self.awaited, self._timeout_s = awaited, timeout_s
        self.started = time.monotonic()
        self._say_after_s = SAID_FIRST_S

    def check(self, hosts: Sequence[Host], patience_s: float = math.inf) -> None:
        """Raises LoaderTimeout in the end, at the latest after `patience_s`."""
        now = time.monotonic()
        silent_s = now - max([self.started, *(host.heard for host in hosts)])
        self._end_if_over(hosts, silent_s, now - self.started, patience_s)
        if now - self.started >= self._say_after_s:
            self._say_after_s = 2 * (now - self.started)
            self._say(hosts, now - self.started)

    def _say(self, hosts: Sequence[Host], waited_s: float) -> None:
        silent = all(host.silent or not host.reachable for host in hosts)
        level = logging.WARNING if silent or waited_s >= WARNED_S else logging.INFO
        names = _names(hosts)
        found = f"no response from {names}; is alexnet-loader running there?" if silent else f"{names} responds"
        log.log(level, "waiting for the loader: %s for %.0f s; %s", self.awaited, waited_s, found)

    def _end_if_over(self, hosts: Sequence[Host], silent_s: float, waited_s: float, patience_s: float) -> None:
        if silent_s > self._timeout_s:
            raise LoaderTimeout(
                f"no response from {_names(hosts)} for {silent_s:.0f} s while waiting for {self.awaited};"
                " is alexnet-loader running there? (raise timeout_s, --loader-timeout, to wait longer)"
            )
        if waited_s > min(PATIENCE * self._timeout_s, patience_s):
            limit = f"{PATIENCE} times timeout_s, --loader-timeout"
            if patience_s < PATIENCE * self._timeout_s:
                limit = f"{patience_s:g} s, so that other ranks do not give up first"
            raise LoaderTimeout(
                f"{_names(hosts)} responds, but did not deliver {self.awaited} in {waited_s:.0f} s; its log may say why"
                f" (the limit is {limit})"
            )


def _names(hosts: Sequence[Host]) -> str:
    return ", ".join(
        f"{host.endpoint} (which refuses: {host.refusal})" if host.refusal else host.endpoint for host in hosts
    )


class ReplyTimes:
    """Adaptive timeouts from the latency of recent replies, TICKET to BATCH, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def hedge_after_s(self) -> float:
        if len(self._seconds) < _FEW:
            return _EXPIRY_S[0]
        return max(_SOONEST_S, 3 * statistics.median(self._seconds))

    @property
    def retry_after_s(self) -> float:
        soonest_s, latest_s = _EXPIRY_S
        if len(self._seconds) < _FEW:
            return latest_s
        return min(max(soonest_s, 10 * statistics.median(self._seconds)), latest_s)
