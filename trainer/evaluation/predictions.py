"""Predictions in files, for people and for other programs."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli.outputs import written
from trainer.evaluation.answers import Answers


def write_jsonl(path: Path, by_views: Mapping[int, Answers], classes: tuple[str, ...]) -> None:
    """A line for each record that was answered, in their order:

    record, label, class     of the data set; label counts from 0
    views                    by number of views: `rank` of the label and its `probability`, and the `likeliest` classes,
                             each with `class`, `label` and `probability`, falling
    """
    first = next(iter(by_views.values()))
    with written(path) as file:
        for record in first.answered.tolist():
            label = int(first.labels[record])
            views = {str(count): _answer(answers, record, classes) for count, answers in by_views.items()}
            line = {"record": record, "label": label, "class": classes[label], "views": views}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _answer(answers: Answers, record: int, classes: tuple[str, ...]) -> dict[str, Any]:
    likeliest = zip(answers.classes[record].tolist(), answers.probabilities[record].tolist(), strict=True)
    return {
        "rank": int(answers.rank[record]),
        "probability": _number(float(answers.probability[record])),
        "likeliest": [{"class": classes[k], "label": k, "probability": _number(p)} for k, p in likeliest],
    }


def _number(probability: float) -> float | None:
    return probability if math.isfinite(probability) else None
