"""The ILSVRC2012 submission file: five ILSVRC2012_IDs, the likeliest first, for each validation image by number."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.cli.outputs import written
from common.client.batch import Batch
from common.errors import UsageError
from common.imagenet.devkit import DEVKIT, ORDER_SEED, Devkit, image_name, shuffled
from common.spec import StreamInfo
from trainer.evaluation.answers import Answers
from trainer.evaluation.validation import TOP

Numbers = npt.NDArray[np.int64]

log = logging.getLogger(__name__)


class Submission:
    """The mapping from records to lines, and from labels to ids.

    ids      int64 classes, the ILSVRC2012_ID of each label
    truth    int64 images, the label of each validation image
    images   int64 records, the validation image, from 0, of each record
    """

    def __init__(self, ids: Numbers, truth: Numbers, images: Numbers) -> None:
        self.ids, self.truth, self.images = ids, truth, images

    @classmethod
    def of(cls, info: StreamInfo, devkit: Devkit, skipped: Path | None) -> "Submission":
        """The mapping for a dataset packed without the images `skipped` lists. Raises UsageError if it is another."""
        strange = [name for name in info.classes if name not in devkit.ids]
        missing = set(devkit.truth) - set(info.classes)
        if strange or missing or len(info.classes) < TOP:
            which = f", such as {strange[0]!r}," if strange else ""
            raise UsageError(
                f"--ilsvrc: the {len(info.classes):,} classes{which} are not those of ILSVRC2012; serve a dataset that"
                " was packed from its archives"
            )
        left_out = _left_out(skipped, devkit)
        if info.records + len(left_out) != len(devkit.truth):
            raise UsageError(_miscounted(info.records, len(left_out), len(devkit.truth), skipped))
        order = shuffled(len(devkit.truth), ORDER_SEED)
        label_of = {name: label for label, name in enumerate(info.classes)}
        return cls(
            np.array([devkit.ids[name] for name in info.classes], np.int64),
            np.array([label_of[name] for name in devkit.truth], np.int64),
            order[~np.isin(order, [number - 1 for number in left_out])],
        )

    def checked(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches. Raises UsageError at an image of another class."""
        for batch in batches:
            images = self.images[batch.records]
            wrong = np.flatnonzero(self.truth[images] != batch.labels)
            if len(wrong):
                name = image_name(int(images[wrong[0]]) + 1)
                raise UsageError(
                    f"--ilsvrc: record {batch.records[wrong[0]]} is not of {name}'s class; serve a dataset that was"
                    f" packed from ILSVRC2012_img_val.tar and this {DEVKIT}, with its own --skipped"
                )
            yield batch

    def write(self, path: Path, answers: Answers) -> None:
        """Write the file; the lowest five ids stand for an image without an answer."""
        nothing = np.sort(self.ids)[:TOP]
        lines = np.tile(nothing, (len(self.truth), 1))
        answered = answers.answered
        lines[self.images[answered]] = self.ids[answers.classes[answered]]
        with written(path, "ascii") as file:
            file.writelines(_line(ids) for ids in lines.tolist())
        if unanswered := len(self.truth) - len(answered):
            log.warning("%s: %d without an answer; %s stands for each", path, unanswered, _line(nothing).strip())


def _line(ids: Numbers | list[int]) -> str:
    return " ".join(map(str, ids)) + "\n"


def _left_out(skipped: Path | None, devkit: Devkit) -> set[int]:
    if skipped is None:
        return set()
    try:
        entries = [json.loads(line) for line in skipped.read_text(encoding="utf-8").splitlines()]
        numbers = {devkit.number_of(entry["name"]) for entry in entries if entry["split"] == "val"}
    except OSError as error:
        raise UsageError(f"--skipped {skipped} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--skipped {skipped} is not a skipped.jsonl of alexnet-pack") from None
    if 0 in numbers:
        raise UsageError(f"--skipped {skipped} names an image that is none of the {len(devkit.truth):,} of ILSVRC2012")
    return numbers


def _miscounted(records: int, left_out: int, images: int, skipped: Path | None) -> str:
    if skipped is None:
        return (
            f"--ilsvrc: the loader serves {records:,} images, not the {images:,} of ILSVRC2012; if packing left"
            " some out, name its list with --skipped DATA/skipped.jsonl"
        )
    return (
        f"--ilsvrc: the {records:,} images that the loader serves and the {left_out:,} of {skipped} are not the"
        f" {images:,} of ILSVRC2012"
    )
