"""A batch's parts, nearly equal in size, as many in a row for each rank.

Part s of V has images count * s // V up to count * (s + 1) // V.
"""

from dataclasses import dataclass

from trainer.ranks.buckets import Division


@dataclass(frozen=True, slots=True)
class Share:
    """The share of `rank` in batches of `batch_size` images, cut in `parts`, a multiple of `ranks`."""

    batch_size: int
    rank: int = 0
    ranks: int = 1
    parts: int = 1

    @property
    def place(self) -> tuple[int, int]:
        return self.rank, self.ranks

    @property
    def most(self) -> int:
        """The most images that a rank has of a batch."""
        return -(-self.batch_size // self.ranks)

    def whole(self, first: int, records: int) -> int:
        """Images of the whole batch from position `first` of an epoch."""
        return min(self.batch_size, records - first)

    def slices(self, count: int) -> list[slice]:
        """This rank's parts of a batch of `count` images, among its own."""
        spans = Division(self.ranks, self.parts).spans(self.rank, count)
        first = spans[0][0]
        return [slice(start - first, end - first) for start, end in spans]
