"""Ranks between two steps. All save, stop and fail after the same one."""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.client.waits import WaitClock, Waits
from common.digest import Digests
from common.errors import LoaderError
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.upload import AsyncResult
from trainer.ranks.share import Share
from trainer.ranks.world import World
from trainer.training.agreement import raise_for_all
from trainer.training.stopping import StopRequested


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """This rank's share of the next batch, and sums over all ranks.

    waits     of the rank that waited longest
    digests   of all images, on rank 0; None without digests
    """

    fed: DeviceBatch
    saves: bool
    replaced: int
    came_decoded: int
    waits: Waits
    digests: Digests | None


class _Word(NamedTuple):
    """A rank's numbers before a step. `signal`: 0 unless it was asked to stop."""

    signal: int
    fails: int
    saves: int
    replaced: int
    came_decoded: int
    waits: Waits

    @classmethod
    def of(cls, numbers: list[float]) -> "_Word":
        signal, fails, saves, replaced, came_decoded, *waits = map(int, numbers)
        return cls(signal, fails, saves, replaced, came_decoded, Waits(*waits))


class QueuedStep:
    """A step whose loss may still be computed.

    images   of all ranks
    shown    inputs for TensorBoard, if any
    """

    def __init__(self, world: World, by_part: AsyncResult, images: int, shown: Tensor | None) -> None:
        self._world, self._arriving, self.images, self.shown = world, by_part, images, shown
        self._sums: tuple[float, float] | None = None

    @property
    def is_read(self) -> bool:
        return self._sums is not None

    def read(self) -> tuple[float, float]:
        """Mean loss and share of wrong answers, exact sums over all parts."""
        if self._sums is None:
            losses, errors = self._world.all_gather(self._arriving.read()).reshape(-1, 2).T.tolist()
            self._sums = math.fsum(losses), math.fsum(errors)
        return self._sums


class Together:
    def __init__(self, world: World, share: Share, *, digests: bool) -> None:
        self.world, self.share, self._digests = world, share, digests

    def next(self, batches: Iterator[DeviceBatch], clock: WaitClock, *, saves: bool = False) -> Turn | None:
        """The next of `batches` if every rank has its own; None at their end.

        saves   save after the step; rank 0's counts

        Raises StopRequested if any rank was asked to stop, LoaderError or ToldByAnother if one has no batch.
        """
        fed, trouble, before = None, None, clock.waits
        try:
            fed = next(batches, None)
        except (StopRequested, LoaderError) as error:
            trouble = error
        words = self._exchange(fed, trouble, saves, clock.waits - before)
        self._raise(words, trouble)
        if fed is None:
            return None
        return Turn(
            fed,
            saves=bool(words[0].saves),
            replaced=sum(word.replaced for word in words),
            came_decoded=sum(word.came_decoded for word in words),
            waits=max((word.waits for word in words), key=lambda waits: waits.total),
            digests=self._all_digests(fed) if self._digests else None,
        )

    def each(self, batches: Iterator[DeviceBatch], clock: WaitClock) -> Iterator[DeviceBatch]:
        """All of `batches`; raises as `next` does."""
        while (turn := self.next(batches, clock)) is not None:
            yield turn.fed

    def go_alone(self) -> None:
        """Act without the others, which are lost."""
        self.world = World.alone()

    def _exchange(self, fed: DeviceBatch | None, trouble: Exception | None, saves: bool, waits: Waits) -> list[_Word]:
        signal = trouble.signal_number if isinstance(trouble, StopRequested) else 0
        fails = isinstance(trouble, LoaderError)
        own = [signal, fails, saves, *_counts(fed), *astuple(waits)]
        rows = self.world.all_gather(torch.tensor(own, dtype=torch.float64))
        return [_Word.of(row) for row in rows.tolist()]

    def _all_digests(self, fed: DeviceBatch) -> Digests | None:
        assert fed.batch.digests is not None
        gathered = self.world.gather(fed.batch.digests.astype("<u8").tobytes())
        return None if gathered is None else np.frombuffer(b"".join(gathered), "<u8").astype(np.uint64)

    def _raise(self, words: list[_Word], trouble: Exception | None) -> None:
        for word in words:
            if word.signal:
                raise StopRequested(word.signal)
        for rank, word in enumerate(words):
            if word.fails:
                raise_for_all(self.world, rank, trouble)

    def agree(self, holds: bool) -> bool:
        return bool(self.world.all_gather(torch.tensor(float(holds))).all())


def _counts(fed: DeviceBatch | None) -> tuple[int, int]:
    """Corrupt records replaced, and images that no loader had to decode."""
    if fed is None:
        return 0, 0
    timeline = fed.batch.timeline
    return len(fed.batch.replaced), 0 if timeline is None else len(fed) - timeline.decoded
