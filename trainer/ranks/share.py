"""A batch's parts, nearly equal in size, as many in a row for each rank.

Part s of V has images count * s // V up to count * (s + 1) // V.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

Reduce = Literal["ordered", "fast"]


@dataclass(frozen=True, slots=True)
class Division:
    """A step's parts, and the ranks that compute equal numbers of them.

    parts    a power of two that `ranks`, another, divides
    reduce   "ordered": the bits depend on `parts`, not on ranks; "fast": in the library's order
    """

    ranks: int = 1
    parts: int = 1
    reduce: Reduce = "ordered"

    @property
    def parts_of_a_rank(self) -> int:
        return self.parts // self.ranks

    def spans(self, rank: int, whole: int) -> list[tuple[int, int]]:
        """Start and end of each of a rank's parts among `whole` images; with fewer images than parts some are empty."""
        first = rank * self.parts_of_a_rank
        cuts = [whole * part // self.parts for part in range(first, first + self.parts_of_a_rank + 1)]
        return list(itertools.pairwise(cuts))


@dataclass(frozen=True, slots=True)
class Share:
    """The share of `rank` in batches of `batch_size` images."""

    batch_size: int
    rank: int = 0
    division: Division = Division()

    @property
    def place(self) -> tuple[int, int]:
        return self.rank, self.division.ranks

    @property
    def most(self) -> int:
        """The most images that a rank has of a batch."""
        return -(-self.batch_size // self.division.ranks)

    def whole(self, first: int, records: int) -> int:
        """Images of the whole batch from position `first` of an epoch."""
        return min(self.batch_size, records - first)

    def slices(self, count: int) -> list[slice]:
        """This rank's parts of a batch of `count` images, among its own."""
        spans = self.division.spans(self.rank, count)
        first = spans[0][0]
        return [slice(start - first, end - first) for start, end in spans]
