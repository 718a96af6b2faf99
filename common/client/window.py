"""The client's books for one pass over a stream. A plain class: no socket, no clock of its own.

A ticket is numbered in the order of the stream. It is *due* until it is asked of a host, *asked* until an answer comes,
*held* until its turn comes, and then taken. A host has at most `credit` tickets asked or held: a held answer may lie in
one of its slots. Were a ticket that is asked again to wait for a slot, it could wait for the answers held behind it,
which wait for it, and nothing would move any more. So an answer that comes later in the order makes room: it is
*displaced*, copied out of its slot, and holds no credit from then on.

A ticket is asked of a second host where the first is late with it and the second has nothing to do. The first answer is
taken. That is work done twice, so it is rationed.
"""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from ..errors import LoaderError
from ..wire import fields

Host = TypeVar("Host", bound=Hashable)
Answer = TypeVar("Answer")

SECOND_SHARE = 0.05  # of the tickets may be asked of a second host while the first has them,
SECOND_FREE = 4  # and so many beside


@dataclass(frozen=True, slots=True)
class Work:
    """What a ticket asks for: positions first..first + count - 1 of an epoch."""

    number: int
    epoch: int
    first: int
    count: int


@dataclass
class _Books:
    """Of one host. Where it is `silent` it is asked nothing; what it holds still fills its slots."""

    credit: int
    asked: dict[int, float] = field(default_factory=dict)  # number -> when
    since: dict[int, float] = field(default_factory=dict)  # when first, as long as it was neither gone nor silent
    held: set[int] = field(default_factory=set)
    silent: bool = False

    @property
    def free(self) -> int:
        return 0 if self.silent else self.credit - len(self.asked) - len(self.held)

    @property
    def can_be_asked_again(self) -> bool:
        """Whether there is room, or can be made by displacing what is held."""
        return not self.silent and len(self.asked) < self.credit


class Window(Generic[Host, Answer]):
    """Asks in order, takes answers in any order, gives them out in order, each once.

    displace   gives an answer that needs no slot any more for one that may
    """

    def __init__(self, plan: Iterator[Work], displace: Callable[[Answer], Answer] = lambda answer: answer) -> None:
        self._plan, self._displace = plan, displace
        self._hosts: dict[Host, _Books] = {}
        self._works: dict[int, Work] = {}  # asked, due again or held
        self._again: deque[int] = deque()  # due again
        self._tried: dict[int, list[Host]] = {}
        self._answers: dict[int, tuple[Host, Answer]] = {}
        self._turn: deque[int] = deque()  # numbers not yet taken, in order
        self._next = next(plan, None)
        self._seconds_left = float(SECOND_FREE)
        self.asked_last = -1  # the highest number that was ever asked for

    @property
    def finished(self) -> bool:
        return self._next is None and not self._turn

    @property
    def awaited(self) -> Work | None:
        """The work whose turn it is, if it was asked for."""
        return self._works[self._turn[0]] if self._turn else None

    @property
    def wanted(self) -> set[int]:
        """Numbers that were asked for and have no answer yet."""
        return self._works.keys() - self._answers.keys()

    def add_host(self, host: Host, credit: int, in_slots: Collection[int] = ()) -> None:
        """The host can be asked; `in_slots` are tickets whose answers lie in its slots from before."""
        self._hosts[host] = _Books(credit, held={number for number in in_slots if number in self._answers})

    def drop_host(self, host: Host) -> None:
        """The host is gone, and its slots with it: what it was asked and no other is, is due again."""
        if lost := self._hosts.pop(host, None):
            self._give_up(lost)

    def set_silent(self, host: Host, silent: bool) -> None:
        """The host says nothing, so others are asked; or it speaks again."""
        books = self._hosts[host]
        books.silent = silent
        if silent:
            self._give_up(books)

    def overdue(self, before: float) -> list[tuple[Host, Work]]:
        """Give up waiting for what was asked before that time; it is due again. Returns what it was."""
        late = [
            (host, number)
            for host, books in self._hosts.items()
            for number, when in books.asked.items()
            if when < before
        ]
        for host, number in late:
            del self._hosts[host].asked[number]
            self._ask_again(number)
        return [(host, self._works[number]) for host, number in late]

    def ask(self, now: float) -> tuple[Host, Work] | None:
        """The next work to ask for and the host to ask, or None where there is neither work nor credit."""
        if self._again:
            return self._ask_due_again(now)
        host = self._host_with_most_credit()
        if host is None or self._next is None:
            return None
        work, self._next = self._next, next(self._plan, None)
        self._works[work.number], self.asked_last = work, work.number
        self._turn.append(work.number)
        self._seconds_left += SECOND_SHARE
        return self._note(host, work, now)

    def ask_second(self, now: float, before: float) -> tuple[Host, Work] | None:
        """The earliest work that a host was asked for before that time, and no second one was; and one that has nothing
        to do, to be asked too."""
        idle = [host for host, books in self._hosts.items() if books.can_be_asked_again and not books.asked]
        if not idle or self._seconds_left < 1:
            return None
        asked = [number for books in self._hosts.values() for number in books.asked]
        late = (number for books in self._hosts.values() for number, when in books.asked.items() if when < before)
        number = min((number for number in late if asked.count(number) == 1), default=None)
        if number is None:
            return None
        self._seconds_left -= 1
        host = self._least_tried(idle, number)
        self._make_room(host)
        return self._note(host, self._works[number], now)

    def expects(self, number: int) -> Work | None:
        """The work that an answer of this number would be for, if it is still wanted."""
        return None if number in self._answers else self._works.get(number)

    def asked_at(self, host: Host, number: int) -> float | None:
        """When this host was last asked for it, if its answer is waited for."""
        return self._hosts[host].asked.get(number) if host in self._hosts else None

    def asked_since(self, host: Host, number: int) -> float | None:
        """Since when this host has been asked for it, without a silence in between; None where it is not."""
        return self._hosts[host].since.get(number) if host in self._hosts else None

    def answer(self, host: Host, number: int, answer: Answer) -> None:
        """Hold the first answer to a ticket. `expects` was asked before: a second answer is not brought here."""
        assert self.expects(number)
        for books in self._hosts.values():
            books.asked.pop(number, None)
            books.since.pop(number, None)
        if number in self._again:
            self._again.remove(number)
        if host in self._hosts:
            self._hosts[host].held.add(number)
        self._answers[number] = host, answer

    def take(self) -> tuple[Work, Answer] | None:
        """The answer whose turn it is, once it is there."""
        if not self._turn or self._turn[0] not in self._answers:
            return None
        number = self._turn.popleft()
        host, answer = self._answers.pop(number)
        if host in self._hosts:
            self._hosts[host].held.discard(number)
        self._tried.pop(number, None)
        return self._works.pop(number), answer

    def drain(self) -> list[Answer]:
        """All answers that are held, when the pass is given up."""
        return [answer for _, answer in self._answers.values()]

    def _give_up(self, books: _Books) -> None:
        numbers, books.asked, books.since = sorted(books.asked), {}, {}
        for number in numbers:
            self._ask_again(number)

    def _ask_again(self, number: int) -> None:
        asked_elsewhere = any(number in books.asked for books in self._hosts.values())
        if number not in self._answers and number not in self._again and not asked_elsewhere:
            self._again.append(number)

    def _ask_due_again(self, now: float) -> tuple[Host, Work] | None:
        """The earliest number first, of the host that was asked for it least often."""
        number = min(self._again)
        able = [host for host, books in self._hosts.items() if books.can_be_asked_again]
        if not able:
            return None
        host = self._least_tried(able, number)
        self._make_room(host)
        self._again.remove(number)
        return self._note(host, self._works[number], now)

    def _least_tried(self, hosts: list[Host], number: int) -> Host:
        return min(hosts, key=self._tried.get(number, []).count)

    def _make_room(self, host: Host) -> None:
        """Displace the answer whose turn is farthest off, where the host's credit is spent."""
        books = self._hosts[host]
        if books.free < 1:
            number = max(books.held)
            books.held.remove(number)
            self._answers[number] = host, self._displace(self._answers[number][1])

    def _host_with_most_credit(self) -> Host | None:
        host = max(self._hosts, key=lambda host: self._hosts[host].free, default=None)
        return host if host is not None and self._hosts[host].free > 0 else None

    def _note(self, host: Host, work: Work, now: float) -> tuple[Host, Work]:
        self._hosts[host].asked[work.number] = now
        self._hosts[host].since.setdefault(work.number, now)
        self._tried.setdefault(work.number, []).append(host)
        return host, work


def done_with(needed: set[int], asked_last: int) -> tuple[int, bytes]:
    """The acknowledgement of all tickets but the `needed` ones: everything below a number, and some above it,
    up to the one that was asked for last. A displaced answer's number may lie above all that are needed.

    That is said anew with every ticket, and once true it stays true, so a TICKET may be lost or come late or twice.
    Raises LoaderError if that would be more than a TICKET can say.
    """
    oldest = min(needed)
    done = [number - oldest for number in range(oldest, asked_last + 1) if number not in needed]
    if len(done) > fields.MAX_SLOTS:
        raise LoaderError(f"a batch was kept while {len(done)} others came; batch.copy() has its images for so long")
    return oldest, np.array(done, "<u4").tobytes()
