"""Which ticket is served next. A plain queue: no process, no socket, no clock."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from common.wire import Ticket

Key = TypeVar("Key", bound=Hashable)


class TicketQueue(Generic[Key]):
    """Tickets of several streams. Streams take turns, so none waits for another's backlog; within one, first come first
    served. A ticket that is asked for again while it waits is the same ticket.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, OrderedDict[int, Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def waiting(self, key: Key) -> int:
        return len(self._waiting.get(key, ()))

    def add(self, key: Key, ticket: Ticket) -> None:
        self._waiting.setdefault(key, OrderedDict()).setdefault(ticket.number, ticket)

    def put_back(self, key: Key, ticket: Ticket) -> None:
        """Back to the front of its stream: the ticket of a worker that died."""
        self.add(key, ticket)
        self._waiting[key].move_to_end(ticket.number, last=False)

    def take(self, can_serve: Callable[[Key], bool]) -> tuple[Key, Ticket] | None:
        """The next ticket of the next stream that `can_serve` accepts; that stream goes to the end of the turn."""
        for key, tickets in self._waiting.items():
            if can_serve(key):
                _, ticket = tickets.popitem(last=False)
                self._waiting.move_to_end(key)
                if not tickets:
                    del self._waiting[key]
                return key, ticket
        return None

    def cancel(self, key: Key, is_done: Callable[[int], bool]) -> None:
        """Forget the stream's tickets whose number `is_done` with."""
        if tickets := self._waiting.get(key):
            for number in [number for number in tickets if is_done(number)]:
                del tickets[number]
            if not tickets:
                del self._waiting[key]

    def drop(self, key: Key) -> None:
        """Forget a stream's tickets."""
        self._waiting.pop(key, None)
