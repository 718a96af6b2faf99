"""Memory of decoded images on its way back to the host, while workers may be using it."""

import contextlib
from collections.abc import Collection, Iterator, Sequence

from loader.workers.kept import KeptImages
from loader.workers.link import Task

_OVER = object()

Tails = Sequence[tuple[KeptImages, int]]  # the images of a split from a record on


class Withdrawal:
    """Gives back the images of `tails`, in steps of `proceed`.

    Workers take no lock. A fill that began before the limits became 0 and the flags were unset may not know it, one
    that begins later does. So the memory goes once all fills that were under way then have ended, whatever their end.
    If they published an image until then, a later fill may read it: its flag is unset, and that fill waited for too.
    """

    def __init__(self, tails: Tails) -> None:
        self._steps = self._run(tails)
        self._under_way: tuple[Task, ...] = ()  # at the last step

    def proceed(self, fills: Collection[Task]) -> bool:
        """Take the steps that can be taken while workers are busy with `fills`; return True after the last one."""
        while not any(fill is old for fill in fills for old in self._under_way):  # an equal one may be a retry
            if next(self._steps, _OVER) is _OVER:
                return True
            self._under_way = tuple(fills)
        return False

    def _run(self, tails: Tails) -> Iterator[None]:
        for kept, first in tails:
            kept.allow(0)
            kept.withdraw(first)
        yield
        while sum(kept.withdraw(first) for kept, first in tails):
            yield
        for kept, first in tails:
            with contextlib.suppress(OSError):  # what stays is not used, and the next look takes more
                kept.give_back(first)
