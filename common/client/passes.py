"""Passes over a stream: iterators over the batches of some epochs."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from ..errors import LoaderError, LoaderTimeout, UsageError
from ..ranges import EPOCHS, RANKS, RECORDS, Whole
from .batch import Batch, BatchRequest
from .owner import Owner

_INTERRUPTED = "a call was interrupted, and a batch may be lost"


class Pass(Iterator[Batch]):
    """An iterator over what `deliver` returns for it, until None.

    After LoaderTimeout the next call waits on. Any other error or interruption ends the pass, since a batch may be
    lost: each later call raises LoaderError.
    """

    def __init__(self, owner: Owner, deliver: Callable[["Pass"], Batch | None], lend: bool) -> None:
        self._owner, self._deliver, self.lend = owner, deliver, lend
        self._interruptions: int | None = None  # of the client's calls before this began
        self._over, self._why = False, ""

    def __next__(self) -> Batch:
        return self._owner.run(self._next)

    def end(self, why: str) -> None:
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
        raise LoaderError("a pass over a stream cannot be pickled or copied: it belongs to one process")


def plan(
    numbers: Iterator[int], epochs: Iterator[int], first: int, end: int, whole: int, share: tuple[int, int]
) -> Iterator[BatchRequest]:
    """Yield a rank's requests: each epoch up to `end`, the first from `first` on, in batches of `whole` images."""
    rank, ranks = share
    for epoch in epochs:
        for position in range(first, end, whole):
            count = min(whole, end - position)
            low, high = count * rank // ranks, count * (rank + 1) // ranks
            yield BatchRequest(next(numbers), epoch, position + low, high - low)
        first = 0


def places(records: int, first: Any, end: Any) -> tuple[int, int]:
    """Check the positions to begin at and to end before. Raises UsageError."""
    first = Whole(0, records).of("first", first)
    end = records if end is None else min(records, Whole(0, 2**63 - 1).of("end", end))
    if end < first:
        raise UsageError(f"end is {end}, which lies before first, {first}")
    return first, end


def share_of(share: Any) -> tuple[int, int]:
    """Check (rank, ranks). Raises UsageError."""
    if not isinstance(share, tuple) or len(share) != 2:
        raise UsageError(f"share is {share!r}; it is (rank, ranks)")
    ranks = RANKS.of("ranks", share[1])
    return Whole(0, ranks - 1).of("rank", share[0]), ranks


def refuse_fewer_than_ranks(images: int, whole: int, ranks: int) -> None:
    if 0 < (left := images % whole) < ranks:
        raise UsageError(f"an epoch's last batch has {left} images for {ranks} ranks: end the epochs before it")


def whole_of(whole: Any, batch_size: int, ranks: int) -> int:
    """Check the size of all ranks' batches. Raises UsageError, also if a rank's part exceeds `batch_size`."""
    whole = Whole(1, RECORDS.high).of("whole", whole)
    if (needed := -(-whole // ranks)) > batch_size:
        raise UsageError(
            f"whole is {whole}: parts for {ranks} ranks have up to {needed} images, the stream's batches {batch_size}"
        )
    return int(whole)


def epochs_of(epochs: Iterable[Any]) -> Iterator[int]:
    """Yield `epochs` as ints. Raises UsageError if one is out of range."""
    if not isinstance(epochs, Iterable):
        raise UsageError(f"epochs is {epochs!r}; it is several epochs, as [3] or range(3)")
    if isinstance(epochs, range):
        for epoch in (*epochs[:1], *epochs[-1:]):
            EPOCHS.of("an epoch", epoch)
    elif isinstance(epochs, Sized):
        epochs = [EPOCHS.of("an epoch", epoch) for epoch in epochs]
    return (EPOCHS.of("an epoch", epoch) for epoch in epochs)
