"""Why a reader waited: each wait for a batch, divided by what happened to that batch meanwhile.

A batch's life at a service, from its ticket's leaving the client to its arrival there:

    asked | waiting for a worker, for a free slot | a worker reads, decodes, augments | on the wire | arrived

The service tells how long each lasted, by its clock (`Took`, in BATCH); what is left of the life, by the client's
clock, was spent on the wire. So clocks are never compared. A wait ends when the life does, and covers as much of its
end as it is long; what lies before that was hidden behind the reader's own work and costs nothing. Of a wait that is
longer than the life, the rest went by before any service had the ticket that answered it.

Where the wire's time lies in the life cannot be known: it counts as the last. Pictures go through a worker one by one,
so a part of its work is read, decode and augment in proportion; so is a part of the waiting before it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Protocol, TypeVar

from ..wire.fields import Took


@dataclass(frozen=True, slots=True)
class Waits:
    """Time waited, in microseconds, by reason.

    no_loader      no service had the ticket: all were gone or silent, or it was asked again
    workers_busy   all workers of the service were at other tickets
    free_slot      the client itself held all slots of its slab
    read, decode, augment   a worker was at it
    wire           on the way: sockets, copies, the turns of the service and of the client
    """

    no_loader: int = 0
    workers_busy: int = 0
    free_slot: int = 0
    read: int = 0
    decode: int = 0
    augment: int = 0
    wire: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __add__(self, other: "Waits") -> "Waits":
        return Waits(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Waits") -> "Waits":
        return Waits(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Life:
    """When a ticket was asked of the service that answered it, and when the answer came: `time.monotonic` seconds.

    asked_s   None where the service has fallen silent since: only its work counts
    """

    asked_s: float | None
    arrived_s: float
    took: Took


def divided(waited_us: int, lived_us: int, took: Took) -> Waits:
    """A wait of `waited_us` that ended with a life of `lived_us`; the parts are never negative, their sum is the wait.

    A service may say that it had the ticket for longer than `lived_us`, where it was silent since it was first asked:
    what that is too much lies before the life.
    """
    before, work = took[:2], took[2:]
    within = min(waited_us, lived_us)
    wire = min(within, max(0, lived_us - sum(took)))
    working = min(within - wire, sum(work))
    queued = within - wire - working
    no_loader = waited_us - within
    workers_busy, free_slot = _in_proportion(queued, before)
    read, decode, augment = _in_proportion(working, work)
    return Waits(no_loader, workers_busy, free_slot, read, decode, augment, wire)


def _in_proportion(whole: int, to: tuple[int, ...]) -> list[int]:
    """`whole`, which is no more than their sum, in whole parts proportional `to` these."""
    parts, done, given = [], 0, 0
    for share in to:
        done += share
        upto = whole * done // max(1, sum(to))
        parts.append(upto - given)
        given = upto
    return parts


class Lived(Protocol):
    """A batch that may know its life."""

    @property
    def life(self) -> Life | None: ...


Of = TypeVar("Of", bound=Lived)


class WaitClock:
    """Adds up the waits for batches; each is counted from before the asking to after the answer.

    waits   so far, by reason; one that ended without a batch is `no_loader`'s

    now_s   the clock by which batches tell their lives
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.waits = Waits()

    @property
    def waited_s(self) -> float:
        return self.waits.total / 1e6

    def timed(self, batches: Iterable[Of]) -> Iterator[Of]:
        iterator = iter(batches)
        while True:
            began_s, batch = self._now_s(), None
            try:
                batch = next(iterator, None)
            finally:
                self.waits += waits_over(began_s, self._now_s(), batch.life if batch is not None else None)
            if batch is None:
                return
            yield batch


def waits_over(began_s: float, ended_s: float, life: Life | None) -> Waits:
    """The wait from `began_s` to `ended_s`, which ended with the batch of this life.

    A batch that had come before was only taken over: that is the wire's.
    """
    waited_us = round((ended_s - began_s) * 1e6)
    if life is None:
        return Waits(no_loader=waited_us)
    if life.arrived_s <= began_s:
        return Waits(wire=waited_us)
    lived_us = round((ended_s - life.asked_s) * 1e6) if life.asked_s is not None else sum(life.took[2:])
    return divided(waited_us, lived_us, life.took)
