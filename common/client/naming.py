"""Names of records, asked for in chunks: a few in flight, repeated, elsewhere too, until answered."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from ..errors import LoaderError, WireError
from ..names import readable
from ..ranges import Whole
from ..wire import messages
from ..wire.fields import MAX_NAMES
from .host import Host
from .patience import Wait
from .served import Services
from .stream_sessions import StreamSessions

_IN_FLIGHT = 4  # chunks, as many as a service takes of one client
_REPEAT_S = 1.0
_FIRST = 1 << 62  # number of a request: no ticket's


@dataclass(eq=False, slots=True)
class _Chunk:
    """`answered` are the hosts whose answer is in `names`: an unknown name may be known elsewhere."""

    number: int
    records: list[int]
    names: list[bytes]
    answered: set[Host] = field(default_factory=set)
    host: Host | None = None
    asked_at: float = 0.0


class Naming:
    def __init__(self, services: Services, sessions: StreamSessions, reopen: Callable[[Host], None]) -> None:
        self._services, self._sessions, self._reopen = services, sessions, reopen
        self._numbers = itertools.count(_FIRST)
        self._in_flight: dict[int, _Chunk] = {}

    def of(self, records: Iterable[int]) -> list[str]:
        """Names of `records`, in their order. Raises UsageError, LoaderRefused and LoaderTimeout."""
        there = Whole(0, self._sessions.info.records - 1)
        asked = [there.of("a record", record) for record in records]
        each = sorted(set(asked))  # neighbours lie in one block of the file
        chunks = [each[at : at + MAX_NAMES] for at in range(0, len(each), MAX_NAMES)]
        waiting = deque(_Chunk(next(self._numbers), chunk, [b""] * len(chunk)) for chunk in chunks)
        found: dict[int, str] = {}
        self._in_flight, wait = {}, self._wait()
        while waiting or self._in_flight:
            if self._sessions.closed:
                raise LoaderError("the stream was closed")
            while waiting and len(self._in_flight) < _IN_FLIGHT:
                chunk = waiting.popleft()
                self._in_flight[chunk.number] = chunk
            self._sessions.say_hello()
            self._sessions.raise_if_refused()
            self._ask()
            self._services.wait(wait)
            for chunk in self._take_finished():
                found.update(zip(chunk.records, map(readable, chunk.names), strict=True))
                wait = self._wait()
        return [found[record] for record in asked]

    def arrived(self, host: Host, reply: messages.NamesReply) -> None:
        """Take in an answer. Raises WireError if it is of another length."""
        chunk = self._in_flight.get(reply.number)
        if chunk is None or self._sessions.get(host) is None:
            return  # a duplicate, or of a call that was interrupted
        if len(reply.names) != len(chunk.records):
            raise WireError(f"NAMES: {len(reply.names)} are not the names of {len(chunk.records)} records")
        chunk.names = [known or new for known, new in zip(chunk.names, reply.names, strict=True)]
        chunk.answered.add(host)
        chunk.host = None

    def _wait(self) -> Wait:
        return Wait("names of records", self._services.timeout_s)

    def _ask(self) -> None:
        now = time.monotonic()
        for chunk in self._in_flight.values():
            is_open = chunk.host is not None and self._sessions.get(chunk.host) is not None and not chunk.host.silent
            if not (is_open and now - chunk.asked_at < _REPEAT_S) and (hosts := self._others(chunk)):
                host = min(hosts, key=lambda host: (host.silent, host is chunk.host))
                records = np.array(chunk.records, "<u4").tobytes()
                chunk.host, chunk.asked_at = host, now
                if not host.send(messages.AskNames(chunk.number, self._sessions.id, records)):
                    self._reopen(host)

    def _others(self, chunk: _Chunk) -> list[Host]:
        return [host for host, _ in self._sessions if host not in chunk.answered]

    def _take_finished(self) -> list[_Chunk]:
        """Chunks of which all is known, or all that any service has."""
        finished = [
            chunk
            for chunk in self._in_flight.values()
            if chunk.answered and (all(chunk.names) or not self._others(chunk))
        ]
        for chunk in finished:
            del self._in_flight[chunk.number]
        return finished
