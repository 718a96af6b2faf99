"""The parts of a page that need images: a network's answers (figure 4), its mistakes, and what it confuses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.spec import Split, StreamInfo, StreamSpec
from trainer.evaluation.answers import Answering, Answers, Confusion
from trainer.evaluation.ensemble import Member
from trainer.evaluation.evaluate import ask_all, placing_of
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.trained import check_classes_served, load_trained, member_of
from trainer.reporting.drawing import Image
from trainer.reporting.nearest import last_hidden, search, stacked

NEAREST = 6
PAIRS = 12  # of confused classes that are listed
MATRIX = 20  # classes; of more, only the pairs are shown


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A stored image, halved, its caption, and the name of its file; "" if that is not known."""

    image: Image
    record: int
    caption: str
    name: str


@dataclass(frozen=True, slots=True)
class Likely:
    name: str
    probability: float
    is_right: bool


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """An image with the likeliest classes, falling, and the training images nearest to it, nearest first."""

    picture: Picture
    likeliest: list[Likely]
    near: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class ImageParts:
    """Answers of one network on `asked` of `records` validation images.

    answered    of some images, one of each class as far as they go
    mistakes    the most confident ones, falling
    matrix      int64 classes x classes, labels by answers; None for more classes than MATRIX
    searched    training images among which the nearest were looked for
    """

    classes: tuple[str, ...]
    asked: int
    records: int
    top1_error: float
    answered: list[Answered]
    mistakes: list[Answered]
    confusions: list[Confusion]
    matrix: npt.NDArray[np.int64] | None
    layer: str | None
    searched: int


class Stored:
    """Single images of a split, by record."""

    def __init__(self, client: LoaderClient, split: Split) -> None:
        self._stream = client.stream(StreamSpec(split, view="full", shuffle=False), 1)
        self.info: StreamInfo = self._stream.info

    def batch(self, record: int) -> Batch:
        (batch,) = self._stream.batches([0], first=record, end=record + 1)
        return batch

    def picture(self, record: int, caption: str) -> Picture:
        (name,) = self._stream.names([record])
        return Picture(halved(self.batch(record).images[0]), record, caption, name)


def image_parts(
    run: Path, client: LoaderClient, asked: EvaluateOptions, *, pictures: int, mistakes: int, train_images: int
) -> ImageParts:
    """Answer the validation split and search the training split. Raises any AlexNetError."""
    trained, placing = load_trained(run), placing_of(asked)
    stream = client.stream(StreamSpec("val", view="full"), asked.batch_size)
    check_classes_served(trained, stream.info)
    member = member_of(trained, stream.info, placing)
    answering = Answering([member], [1.0], (1,), stream.info.records, placing.streams)
    ask_all(answering, stream.batches([0], end=asked.limit, lend=True), [member], asked, stream.info)
    stream.close()
    answers, classes, layer = answering.together[1], stream.info.classes, last_hidden(member.recipe)
    stored = Stored(client, "val")
    shown = [_answered(stored, answers, record, classes) for record in _one_of_each_class(answers, pictures)]
    searched = 0
    if layer is not None and shown:
        searched = _add_nearest(shown, stored, member, layer, client, asked.batch_size, train_images)
    return ImageParts(
        classes,
        len(answers.answered),
        stream.info.records,
        answers.evaluation().top1_error,
        shown,
        [_answered(stored, answers, mistake.record, classes) for mistake in answers.mistakes(mistakes)],
        answers.confusions(PAIRS),
        _matrix(answers) if len(classes) <= MATRIX else None,
        layer,
        searched,
    )


def halved(image: npt.NDArray[np.generic]) -> Image:
    """Half as high and wide, by means of 2 x 2 pixels."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    squares = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    means: Image = np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
    return means


def _one_of_each_class(answers: Answers, count: int) -> list[int]:
    """Answered records: the first of each class, then the second, and so on."""
    records = answers.answered
    labels = answers.labels[records]
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))])
    turn = np.empty(len(records), np.int64)
    turn[order] = np.arange(len(records)) - starts[labels[order]]
    return [int(record) for record in records[np.lexsort((labels, turn))][:count]]


def _answered(stored: Stored, answers: Answers, record: int, classes: Sequence[str]) -> Answered:
    label = int(answers.labels[record])
    likeliest = [
        Likely(classes[k], float(p), k == label)
        for k, p in zip(answers.classes[record].tolist(), answers.probabilities[record].tolist(), strict=True)
    ]
    return Answered(stored.picture(record, classes[label]), likeliest)


def _add_nearest(
    shown: Sequence[Answered],
    stored: Stored,
    member: Member,
    layer: str,
    client: LoaderClient,
    batch_size: int,
    most: int,
) -> int:
    """Find the nearest of each; return among how many."""
    of = stacked(member, layer, [stored.batch(each.picture.record) for each in shown])
    stream = client.stream(StreamSpec("train", view="full"), batch_size)
    images = min(most, stream.info.records)
    nearest = search(member, layer, of, stream.batches([0], end=images, lend=True), images, NEAREST)
    stream.close()
    training = Stored(client, "train")
    for each, records, labels in zip(shown, nearest.records.tolist(), nearest.labels.tolist(), strict=True):
        for record, label in zip(records, labels, strict=True):
            if record >= 0:
                each.near.append(training.picture(record, training.info.classes[label]))
    return images


def _matrix(answers: Answers) -> npt.NDArray[np.int64]:
    seen, count = answers.answered, answers.class_count
    pairs = answers.labels[seen] * count + answers.classes[seen, 0]
    return np.bincount(pairs, minlength=count**2).reshape(count, count)
