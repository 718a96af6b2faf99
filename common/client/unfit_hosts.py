"""Hosts left out of a stream: corrupt records, damaged pixels."""

import logging
from collections import Counter
from collections.abc import Callable

from ..errors import LoaderFault
from .batch import BatchRequest
from .host import Host
from .stream_sessions import StreamSessions

log = logging.getLogger(__name__)

DAMAGED_LIMIT = 3  # arrivals of a batch with wrong digests before that is an error


class UnfitHosts:
    def __init__(self, sessions: StreamSessions, leave: Callable[[Host], None]) -> None:
        self._sessions, self._leave = sessions, leave
        self._damaged: Counter[int] = Counter()  # arrivals, by ticket

    def leave_out(self, host: Host, reason: str) -> bool:
        """Retry elsewhere and return True; False if there is no other host."""
        if len(self._sessions) == 1:
            return False
        log.warning("%s is left out: %s", host.endpoint, reason)
        self._leave(host)
        self._sessions.refuse(host, reason)
        return True

    def leave_out_for(self, host: Host, record: int, reason: str) -> bool:
        """For a corrupt record: no pixel may depend on who answers."""
        reason = f"its record {record} is corrupt, as another host's need not be: {reason}"
        return self.leave_out(host, f"{reason}; alexnet-pack --info DATA --verify there finds all")

    def fault_after_damage(self, host: Host, request: BatchRequest) -> LoaderFault | None:
        """Count an arrival with wrong digests; None to retry."""
        self._damaged[request.number] += 1
        log.warning("%s: %s came damaged: its digests are not those of its pixels", host.endpoint, request)
        if self._damaged[request.number] != DAMAGED_LIMIT:
            return None
        return LoaderFault(f"{host.endpoint}: {request} came damaged {DAMAGED_LIMIT} times; is its memory sound?")
