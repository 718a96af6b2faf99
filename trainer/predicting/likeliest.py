"""Answers for image files, and the errors of those whose class is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.cli.progress import percent
from trainer.evaluation.validation import TOP, ranks
from trainer.predicting.collection import ImageFile


@dataclass(frozen=True, slots=True)
class Answer:
    """The likeliest classes of an image and their probabilities, falling, and the rank of its label; or a fault."""

    file: ImageFile
    likeliest: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    fault: str = ""

    @property
    def is_correct(self) -> bool | None:
        """None without a label, or without an answer."""
        return None if self.rank is None else not _is_wrong(self.rank, 1)


def answers_of(files: Sequence[ImageFile], probabilities: Tensor, top: int) -> list[Answer]:
    """The `top` likeliest classes of each file, from n x classes."""
    likeliest = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    labels = torch.tensor([file.label or 0 for file in files], device=probabilities.device)
    rows = zip(
        files, likeliest.indices.tolist(), likeliest.values.tolist(), ranks(probabilities, labels).tolist(), strict=True
    )
    return [
        Answer(file, tuple(zip(classes, shares, strict=True)), None if file.label is None else rank)
        for file, classes, shares, rank in rows
    ]


@dataclass(slots=True)
class Score:
    """Counts of files, and shares of the labelled; `top5_error` is None with five classes or fewer."""

    classes: int
    images: int = 0
    bad: int = 0
    labelled: int = 0
    top1_wrong: int = 0
    top5_wrong: int = 0

    def add(self, answer: Answer) -> None:
        self.images += not answer.fault
        self.bad += bool(answer.fault)
        if answer.rank is not None:
            self.labelled += 1
            self.top1_wrong += _is_wrong(answer.rank, 1)
            self.top5_wrong += _is_wrong(answer.rank, TOP)

    @property
    def top1_error(self) -> float | None:
        return self.top1_wrong / self.labelled if self.labelled else None

    @property
    def top5_error(self) -> float | None:
        return self.top5_wrong / self.labelled if self.labelled and self.classes > TOP else None

    def text(self) -> str:
        """Errors in a line; empty without a label."""
        errors = {"top-1": self.top1_error, "top-5": self.top5_error}
        figures = [f"{name} error {percent(error)}" for name, error in errors.items() if error is not None]
        of = "" if self.labelled == self.images else f" of {self.images:,}"
        return f"{self.labelled:,}{of} images in folders named like classes: {', '.join(figures)}" if figures else ""


def _is_wrong(rank: int, top: int) -> bool:
    return not 1 <= rank <= top
