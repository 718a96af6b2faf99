"""Limits of a client's waits, and its warnings meanwhile: in programs without logging of their own too."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import LoaderTimeout
from .host import Host
from .owner import Owner
from .served import Served

log = logging.getLogger(__name__)

SAID_FIRST_S = 3.0  # how long a wait lasts before it is said; then each time that it has doubled
WARNED_S = 30.0  # and before that is a warning, if a service answers
PATIENCE = 10  # times timeout_s that a service which is there may owe an answer


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


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """The services as a client's streams have them, and whose they are.

    hosts       they come and go
    served      what all streams are of
    timeout_s   as LoaderClient takes it
    wait, hear  hear them once, blocking for a while or not at all
    """

    owner: Owner
    hosts: list[Host]
    served: Served
    timeout_s: float
    wait: Callable[[Wait], None]
    hear: Callable[[], None]
