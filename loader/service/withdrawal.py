"""Memory of decoded images on its way back to the host, while workers may be using it."""

import contextlib
from collections.abc import Collection, Iterator, Sequence

from loader.workers.kept import KeptImages
from loader.workers.link import Task

Tails = Sequence[tuple[KeptImages, int]]  # the images of a split from a record on


class Withdrawal:
    """Gives back the images of `tails`, in steps of `proceed`.

    Workers take no lock. One that began a fill before a step may not have seen it, one that begins later has: so each
    step waits until the fills that were under way have ended, whatever their end.

    1. limits become 0, and whoever saw the old one ends: no image is written from here on
    2. flags are unset, and whoever saw one set ends: none is read
    3. the memory goes
    """

    def __init__(self, tails: Tails) -> None:
        self._steps = self._run(tails)
        self._under_way: tuple[Task, ...] = ()  # at the last step

    def proceed(self, fills: Collection[Task]) -> bool:
        """Take the steps that can be taken while workers are busy with `fills`; return True after the last one."""
        while not any(fill is old for fill in fills for old in self._under_way):  # an equal one may be a retry
            if next(self._steps, None) is None:
                return True
            self._under_way = tuple(fills)
        return False

    def _run(self, tails: Tails) -> Iterator[str]:
        for kept, _ in tails:
            kept.allow(0)
        yield "limits"
        for kept, first in tails:
            kept.withdraw(first)
        yield "flags"
        for kept, first in tails:
            with contextlib.suppress(OSError):  # what stays is not used, and the next look takes more
                kept.give_back(first)
