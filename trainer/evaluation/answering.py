"""The pass over a split in which every record is answered: by each network, and by all together."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.client.batch import Batch
from common.errors import CheckpointError
from trainer.device.streams import Streams
from trainer.evaluation.answers import Answers, told
from trainer.evaluation.ensemble import Member, mixed
from trainer.evaluation.validation import is_wrong, places_with_own
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.upload import LateNumbers

TOGETHER = "all together"

ByViews = dict[int, Answers]


@dataclass(frozen=True, slots=True, eq=False)
class _Late:
    """What was told of a batch, not yet read: by answerer, then number of views."""

    batch: Batch
    told: list[dict[int, LateNumbers]]


class Answering:
    """Asks the members and, where there are several, all of them together with their `weights`.

    by_answerer   the answers by number of views: each member's by its name, then those of all together
    seen          pictures so far
    bad           records that are no picture, and so are not answered

    A batch's answers come to the host while the devices compute the next batch's.
    """

    def __init__(
        self,
        members: Sequence[Member],
        weights: Sequence[float],
        view_counts: Sequence[int],
        records: int,
        streams: Streams,
    ) -> None:
        self._members, self._weights, self._view_counts, self._streams = members, weights, view_counts, streams
        names = [member.name for member in members] + ([TOGETHER] if len(members) > 1 else [])
        classes = members[0].recipe.classes
        self.by_answerer = [(name, {count: Answers(records, classes) for count in view_counts}) for name in names]
        self.seen = self._wrong = 0
        self.bad: set[int] = set()
        self._late: _Late | None = None

    @property
    def together(self) -> ByViews:
        """The answers of all together; of the only one where there is one."""
        return self.by_answerer[-1][1]

    @property
    def top1_error(self) -> float:
        """Of all together with the most views, so far."""
        return self._wrong / max(self.seen, 1)

    def answer(self, fed: DeviceBatch) -> None:
        """Queue a batch; then take in what was told of the one before."""
        of_members = [member.probabilities(fed.pixels, self._view_counts) for member in self._members]
        answers = [*of_members, mixed(of_members, self._weights)] if len(of_members) > 1 else of_members
        late = [{count: LateNumbers(told(of[count], fed.labels), self._streams) for count in of} for of in answers]
        self.finish()
        self._late = _Late(fed.batch, late)

    def finish(self) -> None:
        """Take in what was told last. Raises CheckpointError if that is no number."""
        if self._late is None:
            return
        (batch, late), self._late = (self._late.batch, self._late.told), None
        own = places_with_own(batch)
        records, labels = batch.records[own], batch.labels[own]
        for (name, answers), of_views in zip(self.by_answerer, late, strict=True):
            for count, numbers in of_views.items():
                rows = numbers.read()[own]
                if not bool(rows.isfinite().all()):
                    raise CheckpointError(f"{name} answers with nan: training diverged before it was saved")
                answers[count].take_in(records, labels, rows)
        self._note(len(own), rows)
        self.bad.update(place.record for place in batch.replaced)

    def _note(self, pictures: int, rows: Tensor) -> None:
        self.seen += pictures
        self._wrong += int(is_wrong(rows[:, 0], 1).sum())
