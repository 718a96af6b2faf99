"""Stall attribution: splits the time spent waiting for a batch among its stages.

    lifetime     |  queued: for_worker, for_slot  |  work: read, decode, augment  |  wire  |
                 requested                                                              arrived
    short wait                                               |-----------------------------|  work in part, wire
    long wait    ----|---------------------------------------------------------------------|  no_loader, then all

A wait covers the end of a lifetime; what lies before was hidden behind the reader's own work.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from ..wire.fields import StageTimes
from .batch import Batch, Timeline


@dataclass(frozen=True, slots=True)
class Waits:
    """Time waited, in microseconds, by reason.

    no_loader      no service had the ticket: all gone or silent, or it was retried
    free_slot      the client itself held every slot
    wire           sockets, copies, event loops
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
        return sum(_times(self))

    def __add__(self, other: "Waits") -> "Waits":
        return Waits(*(a + b for a, b in zip(_times(self), _times(other), strict=True)))

    def __sub__(self, other: "Waits") -> "Waits":
        return Waits(*(a - b for a, b in zip(_times(self), _times(other), strict=True)))


_times = attrgetter(*Waits.__match_args__)  # astuple would copy each deeply, for every batch


class WaitClock:
    """Adds up the time waited for batches, by reason; `now_s` is the clock of their timelines."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.waits = Waits()

    @property
    def waited_s(self) -> float:
        return self.waits.total / 1e6

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while True:
            began_s, batch = self._now_s(), None
            try:
                batch = next(iterator, None)
            finally:
                self.waits += waits_over(began_s, self._now_s(), batch.timeline if batch is not None else None)
            if batch is None:
                return
            yield batch


def waits_over(began_s: float, ended_s: float, timeline: Timeline | None) -> Waits:
    waited_us = round((ended_s - began_s) * 1e6)
    if timeline is None:
        return Waits(no_loader=waited_us)
    if timeline.arrived_s <= began_s:  # it was there before, and only handed over
        return Waits(wire=waited_us)
    if timeline.requested_s is None:
        return divided(waited_us, sum(timeline.stages[2:]), timeline.stages)
    return divided(waited_us, round((ended_s - timeline.requested_s) * 1e6), timeline.stages)


def divided(waited_us: int, lifetime_us: int, stages: StageTimes) -> Waits:
    """Split a wait at the end of a lifetime into parts that add up to it.

    Stages may exceed the lifetime, which starts anew after a silence.
    """
    queue, work = stages[:2], stages[2:]
    covered = min(waited_us, lifetime_us)
    wire = min(covered, max(0, lifetime_us - sum(stages)))
    working = min(covered - wire, sum(work))
    queued = covered - wire - working
    workers_busy, free_slot = _in_proportion(queued, queue)
    read, decode, augment = _in_proportion(working, work)
    return Waits(waited_us - covered, workers_busy, free_slot, read, decode, augment, wire)


def _in_proportion(whole: int, weights: tuple[int, ...]) -> list[int]:
    """Split `whole`, at most the weights' sum, into integers."""
    parts, weight_so_far, given = [], 0, 0
    for weight in weights:
        weight_so_far += weight
        share = whole * weight_so_far // max(1, sum(weights))
        parts.append(share - given)
        given = share
    return parts
