"""Request window for one pass over a stream. Pure bookkeeping: no sockets, no clock.

A ticket is in flight until answered, then held until its turn; credit bounds both, since a held answer may lie in a
slot. Hosts whose slab is mapped are asked first: their pixels cross no socket. A retry must never wait for a slot: it
could wait for answers held behind it, which wait for it. So it displaces one of these by a copy. A late ticket is
hedged: an idle host gets it too, and the first answer wins.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import LoaderError
from ..wire import fields
from .batch import Answer, BatchRequest, displaced
from .host import Host

HEDGE_SHARE = 0.05  # of all tickets may be hedged,
HEDGES_FREE = 4  # and this many more


@dataclass
class _HostState:
    """Books of one host. A silent one gets no requests, but what it holds still fills its slots."""

    credit: int
    by_slab: bool
    in_flight: dict[int, float] = field(default_factory=dict)  # when last requested, by number
    since: dict[int, float] = field(default_factory=dict)  # when first, unless it was gone or silent meanwhile
    held: set[int] = field(default_factory=set)
    silent: bool = False

    @property
    def credit_left(self) -> int:
        return 0 if self.silent else self.credit - len(self.in_flight) - len(self.held)

    @property
    def can_take_retry(self) -> bool:
        return not self.silent and len(self.in_flight) < self.credit


class Window:
    """Requests in order, takes answers in any order, delivers in order, each once."""

    def __init__(self, plan: Iterator[BatchRequest], empty: Callable[[BatchRequest], Answer]) -> None:
        self._plan, self._empty = plan, empty
        self._next = next(plan, None)
        self._hosts: dict[Host, _HostState] = {}
        self._requests: dict[int, BatchRequest] = {}  # requested once and not taken yet
        self._order: deque[int] = deque()  # their numbers
        self._retries: deque[int] = deque()  # that no host has in flight any more
        self._tried: dict[int, list[Host]] = {}
        self._answers: dict[int, tuple[Host | None, Answer]] = {}
        self._hedges_left = float(HEDGES_FREE)
        self.requested_last = -1  # the highest number ever requested

    @property
    def finished(self) -> bool:
        return self._next is None and not self._order

    @property
    def awaited(self) -> BatchRequest | None:
        return self._requests[self._order[0]] if self._order else None

    @property
    def wanted(self) -> set[int]:
        return self._requests.keys() - self._answers.keys()

    def add_host(self, host: Host, credit: int, in_slots: Collection[int] = (), *, by_slab: bool = False) -> None:
        """Admit a host.

        in_slots   tickets whose answers already lie in its slots
        by_slab    its slab is mapped
        """
        held = {number for number in in_slots if number in self._answers}
        self._hosts[host] = _HostState(credit, by_slab, held=held)

    def drop_host(self, host: Host) -> None:
        if lost := self._hosts.pop(host, None):
            self._reassign(lost)

    def set_silent(self, host: Host, silent: bool) -> None:
        state = self._hosts[host]
        state.silent = silent
        if silent:
            self._reassign(state)

    def expire(self, before: float) -> list[tuple[Host, BatchRequest]]:
        """Retry, and return, what was requested before that time."""
        expired = [
            (host, number)
            for host, state in self._hosts.items()
            for number, when in state.in_flight.items()
            if when < before
        ]
        for host, number in expired:
            del self._hosts[host].in_flight[number]
            self._retry(number)
        return [(host, self._requests[number]) for host, number in expired]

    def request(self, now: float) -> tuple[Host, BatchRequest] | None:
        """The next request and its host, retries first; None without credit or work."""
        if self._retries:
            return self._request_retry(now)
        self._pass_over_empty()
        able = {host: left for host, state in self._hosts.items() if (left := state.credit_left) > 0}
        if not able or self._next is None or not self._next.count:
            return None
        host = max(able, key=lambda host: (self._hosts[host].by_slab, able[host]))
        request = self._advance(self._next)
        self.requested_last = request.number
        self._hedges_left += HEDGE_SHARE
        return self._note(host, request, now)

    def _pass_over_empty(self) -> None:
        """Answer a request for no images here. Of several in a row each waits until the one before is taken."""
        last = self._requests[self._order[-1]] if self._order else None
        if self._next is not None and not self._next.count and (last is None or last.count):
            request = self._advance(self._next)
            self._answers[request.number] = None, self._empty(request)

    def _advance(self, request: BatchRequest) -> BatchRequest:
        self._next = next(self._plan, None)
        self._requests[request.number] = request
        self._order.append(request.number)
        return request

    def hedge(self, now: float, before: float) -> tuple[Host, BatchRequest] | None:
        """The earliest late request that one host alone has in flight, and an idle host for it."""
        idle = [host for host, state in self._hosts.items() if state.can_take_retry and not state.in_flight]
        number = self._earliest_late(before) if idle and self._hedges_left >= 1 else None
        if number is None:
            return None
        self._hedges_left -= 1
        return self._request_again(idle, number, now)

    def expects(self, number: int) -> BatchRequest | None:
        return None if number in self._answers else self._requests.get(number)

    def requested_at(self, host: Host, number: int) -> float | None:
        """When last requested there; None if it is not in flight."""
        return self._hosts[host].in_flight.get(number) if host in self._hosts else None

    def requested_since(self, host: Host, number: int) -> float | None:
        """When first requested there; None if the host was gone or silent since."""
        return self._hosts[host].since.get(number) if host in self._hosts else None

    def answer(self, host: Host, number: int, answer: Answer) -> None:
        assert self.expects(number)
        for state in self._hosts.values():
            state.in_flight.pop(number, None)
            state.since.pop(number, None)
        if number in self._retries:
            self._retries.remove(number)
        if host in self._hosts:
            self._hosts[host].held.add(number)
        self._answers[number] = host, answer

    def take(self) -> Answer | None:
        if not self._order or self._order[0] not in self._answers:
            return None
        number = self._order.popleft()
        host, answer = self._answers.pop(number)
        if host is not None and host in self._hosts:
            self._hosts[host].held.discard(number)
        self._tried.pop(number, None)
        del self._requests[number]
        return answer

    def held(self) -> list[Answer]:
        return [answer for _, answer in self._answers.values()]

    def _reassign(self, state: _HostState) -> None:
        numbers, state.in_flight, state.since = sorted(state.in_flight), {}, {}
        for number in numbers:
            self._retry(number)

    def _retry(self, number: int) -> None:
        in_flight = any(number in state.in_flight for state in self._hosts.values())
        if number not in self._answers and number not in self._retries and not in_flight:
            self._retries.append(number)

    def _request_retry(self, now: float) -> tuple[Host, BatchRequest] | None:
        able = [host for host, state in self._hosts.items() if state.can_take_retry]
        if not able:
            return None
        number = min(self._retries)
        self._retries.remove(number)
        return self._request_again(able, number, now)

    def _earliest_late(self, before: float) -> int | None:
        hosts = Counter(number for state in self._hosts.values() for number in state.in_flight)
        requested = (item for state in self._hosts.values() for item in state.in_flight.items())
        return min((number for number, when in requested if when < before and hosts[number] == 1), default=None)

    def _request_again(self, hosts: list[Host], number: int, now: float) -> tuple[Host, BatchRequest]:
        """Choose the host asked least often; displace its last held answer if its credit is spent."""
        host = min(hosts, key=self._tried.get(number, []).count)
        state = self._hosts[host]
        if state.credit_left < 1:
            last = max(state.held)
            state.held.remove(last)
            self._answers[last] = host, displaced(self._answers[last][1])
        return self._note(host, self._requests[number], now)

    def _note(self, host: Host, request: BatchRequest, now: float) -> tuple[Host, BatchRequest]:
        self._hosts[host].in_flight[request.number] = now
        self._hosts[host].since.setdefault(request.number, now)
        self._tried.setdefault(request.number, []).append(host)
        return host, request


def acknowledgement(needed: set[int], requested_last: int) -> tuple[int, bytes]:
    """The `oldest` and `done` of a TICKET: all numbers up to the last one requested that are not `needed`.

    Raises LoaderError if `done` exceeds its field.
    """
    oldest = min(needed)
    done = [number - oldest for number in range(oldest, requested_last + 1) if number not in needed]
    if len(done) > fields.MAX_SLOTS:
        raise LoaderError(f"a batch was kept while {len(done)} others came; batch.copy() keeps its images for longer")
    return oldest, np.array(done, "<u4").tobytes()
