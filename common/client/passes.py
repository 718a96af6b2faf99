"""One pass over a stream, as its reader has it: an iterator over the batches of some epochs."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from ..errors import LoaderError, LoaderTimeout, UsageError
from ..ranges import EPOCHS, Whole
from .batch import Batch
from .owner import Owner
from .window import Work

_INTERRUPTED = "a call was interrupted, and a batch may be lost"


class Pass(Iterator[Batch]):
    """An iterator over batches that `deliver` gives for it, until that gives None.

    LoaderTimeout leaves it where it is: the next call waits on. Any other error ends it, and so does what interrupts a
    call, since what came then need not be the next batch; each later call is a LoaderError that says so.

    lend   whether batches are views of the slab, which the stream takes back
    """

    def __init__(self, owner: Owner, deliver: Callable[["Pass"], Batch | None], lend: bool) -> None:
        self._owner, self._deliver, self.lend = owner, deliver, lend
        self._interruptions: int | None = None  # of the client's calls, when this began
        self._over, self._why = False, ""

    def __next__(self) -> Batch:
        return self._owner.run(self._next)

    def end(self, why: str) -> None:
        """Nothing more comes of it."""
        self._why = self._why or why

    def _next(self) -> Batch:
        if self._over:
            raise StopIteration
        if self._interruptions is None:
            self._interruptions = self._owner.interruptions
        if self._interruptions != self._owner.interruptions:
            self.end(_INTERRUPTED)
        if self._why:
            raise LoaderError(f"this pass over the stream has ended: {self._why}; begin another with stream.batches()")
        try:
            batch = self._deliver(self)
        except LoaderTimeout:
            raise
        except (LoaderError, UsageError) as error:
            self.end(str(error))
            raise
        if batch is None:
            self._over = True
            raise StopIteration
        return batch

    def __reduce__(self) -> Any:
        raise LoaderError("a pass over a stream cannot be pickled or copied: it is of one process")


def plan(numbers: Iterator[int], epochs: Iterator[int], first: int, end: int, batch_size: int) -> Iterator[Work]:
    """The tickets of a pass, under these numbers: from `first`, which is the first epoch's, to `end` of each."""
    for epoch in epochs:
        for position in range(first, end, batch_size):
            yield Work(next(numbers), epoch, position, min(batch_size, end - position))
        first = 0


def places(records: int, first: Any, end: Any) -> tuple[int, int]:
    """Positions at which to begin and before which to end, of an epoch of so many records. Raises UsageError."""
    first = Whole(0, records).of("first", first)
    end = records if end is None else min(records, Whole(0, 2**63 - 1).of("end", end))
    if end < first:
        raise UsageError(f"end is {end}, which lies before first, {first}")
    return first, end


def epochs_of(epochs: Iterable[Any]) -> Iterator[int]:
    """Each of `epochs` as int. Raises UsageError for one out of its range: at once, but for an iterator's."""
    if not isinstance(epochs, Iterable):
        raise UsageError(f"epochs is {epochs!r}; it is several epochs, as [3] or range(3)")
    if isinstance(epochs, range):
        for epoch in (*epochs[:1], *epochs[-1:]):
            EPOCHS.of("an epoch", epoch)
    elif isinstance(epochs, Sized):
        epochs = [EPOCHS.of("an epoch", epoch) for epoch in epochs]
    return (EPOCHS.of("an epoch", epoch) for epoch in epochs)
