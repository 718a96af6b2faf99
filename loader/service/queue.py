"""Which ticket is served next. A plain queue: no process, no socket, no clock."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from common.wire.messages import Ticket

Key = TypeVar("Key", bound=Hashable)


class TicketQueue(Generic[Key]):
    """Tickets of several streams. The stream that was served the fewest pictures is next, so that none waits for
    another's backlog, nor for its larger batches; within a stream, first come first served. A ticket that is asked for
    again while it waits is the same ticket.

    Nothing is saved up: a stream that had no ticket, or no slot, goes on from where the others are.
    """

    def __init__(self) -> None:
        self._waiting: dict[Key, OrderedDict[int, Ticket]] = {}
        self._served: dict[Key, int] = {}  # pictures, or as many as if the stream had taken part all the time
        self._turn = 0  # what the stream that was served last had before

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def waiting(self, key: Key) -> int:
        return len(self._waiting.get(key, ()))

    def add(self, key: Key, ticket: Ticket) -> None:
        if key not in self._waiting:
            self._waiting[key] = OrderedDict()
            self._catch_up(key)
        self._waiting[key].setdefault(ticket.number, ticket)

    def put_back(self, key: Key, ticket: Ticket) -> None:
        """Back to the front of its stream: the ticket of a worker that died."""
        self.add(key, ticket)
        self._waiting[key].move_to_end(ticket.number, last=False)

    def take(self, can_serve: Callable[[Key], bool]) -> tuple[Key, Ticket] | None:
        """The next ticket, of a stream that `can_serve` accepts."""
        able = {key: can_serve(key) for key in self._waiting}
        key = min((key for key in able if able[key]), key=self._served.__getitem__, default=None)
        if key is None:
            return None
        self._turn = self._served[key]
        for other in able:
            if not able[other]:
                self._catch_up(other)
        _, ticket = self._waiting[key].popitem(last=False)
        self._served[key] += ticket.count
        if not self._waiting[key]:
            del self._waiting[key]
        return key, ticket

    def cancel(self, key: Key, is_done: Callable[[int], bool]) -> None:
        """Forget the stream's tickets whose number `is_done` with."""
        if tickets := self._waiting.get(key):
            for number in [number for number in tickets if is_done(number)]:
                del tickets[number]
            if not tickets:
                del self._waiting[key]

    def drop(self, key: Key) -> None:
        """Forget a stream."""
        self._waiting.pop(key, None)
        self._served.pop(key, None)

    def _catch_up(self, key: Key) -> None:
        self._served[key] = max(self._served.get(key, 0), self._turn)
