"""The answers of networks on a split, record by record."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.client.batch import Batch
from common.errors import CheckpointError
from trainer.device.streams import Streams
from trainer.evaluation.ensemble import Member, mixed
from trainer.evaluation.validation import TOP, Evaluation, is_wrong, losses, places_with_own, ranks
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.upload import AsyncResult

TOGETHER = "all together"
NO_RANK = -1  # of a record that was not answered


def answer_rows(probabilities: Tensor, labels: Tensor) -> Tensor:
    """float64 n x (2 + 2 k): the label's rank and probability, the k likeliest classes and theirs."""
    likeliest = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    columns = [
        ranks(probabilities, labels)[:, None],
        probabilities.gather(1, labels[:, None]),
        likeliest.indices,
        likeliest.values,
    ]
    return torch.cat([column.double() for column in columns], dim=1)


@dataclass(frozen=True, slots=True)
class Confusion:
    label: int
    taken_for: int
    count: int
    of_label: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """`probability`: of the class that the image was taken for."""

    record: int
    label: int
    taken_for: int
    probability: float


class Answers:
    """The answers for n records.

    labels       int64 n
    rank         int64 n, of the label; NO_RANK if not answered
    probability  float32 n, of the label
    classes, probabilities   int32 and float32 n x k: the likeliest, falling
    """

    def __init__(self, records: int, classes: int) -> None:
        self.class_count = classes
        self.labels = np.full(records, -1, np.int64)
        self.rank = np.full(records, NO_RANK, np.int64)
        self.probability = np.zeros(records, np.float32)
        self.classes = np.full((records, min(TOP, classes)), -1, np.int32)
        self.probabilities = np.zeros((records, min(TOP, classes)), np.float32)

    def take_in(self, records: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], answers: Tensor) -> None:
        rows = answers.numpy()
        middle = 2 + self.classes.shape[1]
        self.labels[records] = labels
        self.rank[records], self.probability[records] = rows[:, 0], rows[:, 1]
        self.classes[records], self.probabilities[records] = rows[:, 2:middle], rows[:, middle:]

    @property
    def answered(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.rank != NO_RANK)

    def evaluation(self) -> Evaluation:
        """Errors and loss over the answered records. Raises ValueError if there are none."""
        seen = self.answered
        if not len(seen):
            raise ValueError("there was no image to evaluate on")
        rank, loss = torch.from_numpy(self.rank[seen]), losses(torch.from_numpy(self.probability[seen]))
        top1, top5 = (float(is_wrong(rank, top).double().mean()) for top in (1, TOP))
        return Evaluation(top1, top5 if self.class_count > TOP else None, float(loss.mean()), len(seen))

    def confusions(self, most: int) -> list[Confusion]:
        seen = self.answered
        labels, taken_for = self.labels[seen], self.classes[seen, 0]
        of_label = np.bincount(labels, minlength=self.class_count)
        pairs, counts = np.unique((labels * self.class_count + taken_for)[labels != taken_for], return_counts=True)
        order = np.lexsort((pairs, -counts))[:most]
        return [_confusion(int(pairs[k]), int(counts[k]), self.class_count, of_label) for k in order]

    def mistakes(self, most: int) -> list[Mistake]:
        """The most confident ones, falling."""
        wrong = self.answered[self.classes[self.answered, 0] != self.labels[self.answered]]
        records = wrong[np.argsort(-self.probabilities[wrong, 0], kind="stable")][:most]
        columns = self.labels[records], self.classes[records, 0], self.probabilities[records, 0]
        return [Mistake(*row) for row in zip(records.tolist(), *(of.tolist() for of in columns), strict=True)]


def _confusion(pair: int, count: int, classes: int, of_label: Sequence[int] | npt.NDArray[np.int64]) -> Confusion:
    label, taken_for = divmod(pair, classes)
    return Confusion(label, taken_for, count, int(of_label[label]))


@dataclass(frozen=True, slots=True, eq=False)
class _QueuedAnswers:
    batch: Batch
    rows: list[dict[int, AsyncResult]]


class Answering:
    """Collects the answers of each member and, if there are several, of all together.

    by_answerer   name and answers by number of views
    seen          images so far
    bad           corrupt records, which are not answered
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
        self._queued: _QueuedAnswers | None = None

    @property
    def together(self) -> dict[int, Answers]:
        return self.by_answerer[-1][1]

    @property
    def top1_error(self) -> float:
        """The error so far, with the most views."""
        return self._wrong / max(self.seen, 1)

    def answer(self, fed: DeviceBatch) -> None:
        """Queue a batch, and take in the one before meanwhile."""
        of_members = [member.probabilities(fed.pixels, self._view_counts) for member in self._members]
        answers = [*of_members, mixed(of_members, self._weights)] if len(of_members) > 1 else of_members
        rows = [
            {count: AsyncResult(answer_rows(p, fed.labels), self._streams) for count, p in by_count.items()}
            for by_count in answers
        ]
        self.finish()
        self._queued = _QueuedAnswers(fed.batch, rows)

    def finish(self) -> None:
        """Take in the last batch. Raises CheckpointError if answers are not finite."""
        if self._queued is None:
            return
        queued, self._queued = self._queued, None
        batch, own = queued.batch, places_with_own(queued.batch)
        records, labels = batch.records[own], batch.labels[own]
        for (name, answers), by_count in zip(self.by_answerer, queued.rows, strict=True):
            for count, arriving in by_count.items():
                rows = arriving.read()[own]
                if not bool(rows.isfinite().all()):
                    raise CheckpointError(f"{name} answers with nan: training diverged before it was saved")
                answers[count].take_in(records, labels, rows)
        self._note(len(own), rows)
        self.bad.update(place.record for place in batch.replaced)

    def _note(self, images: int, rows: Tensor) -> None:
        self.seen += images
        self._wrong += int(is_wrong(rows[:, 0], 1).sum())
