"""The results of an evaluation."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.cli.console import shown
from common.cli.outputs import written
from common.cli.progress import percent
from common.errors import AlexNetError
from trainer.evaluation.answers import Answers, Confusion, Mistake
from trainer.evaluation.intervals import in_percent, wilson
from trainer.evaluation.validation import Evaluation

ByViews = Mapping[int, Evaluation]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The outcome of one `alexnet-evaluate`.

    rows         name and errors by number of views: of each checkpoint, then of all together
    confusions, mistakes   of the last row with the most views
    names        of the files of some records; "" if unknown
    unwritten    the errors of files that could not be written
    """

    split: str
    dataset: str
    records: int
    classes: tuple[str, ...]
    rows: Sequence[tuple[str, ByViews]]
    weights: Sequence[float]
    confusions: Sequence[Confusion]
    bad: Sequence[int]
    seconds: float
    waited_s: float
    mistakes: Sequence[Mistake] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    unwritten: Sequence[AlexNetError] = ()

    @property
    def images(self) -> int:
        return next(iter(self.rows[0][1].values())).images

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    def text(self) -> str:
        lines = [self._head(), "", *_table([(shown(name), by_views) for name, by_views in self.rows])]
        if self.confusions:
            lines += ["", "most confused", *(f"  {self._confusion(pair)}" for pair in self.confusions)]
        if self.mistakes:
            lines += ["", "most confident mistakes", *(f"  {self._mistake(one)}" for one in self.mistakes)]
        return "\n".join(lines)

    def _head(self) -> str:
        of = "" if self.images == self.records else f" of {self.records:,}"
        bad = f", {len(self.bad):,} corrupt records left out" if self.bad else ""
        return (
            f"{self.split}: {self.images:,}{of} images of {len(self.classes):,} classes{bad};"
            f" {self.images_per_s:,.0f} images/s, waiting for data {percent(self.waited_s / self.seconds)}"
        )

    def _confusion(self, pair: Confusion) -> str:
        label, taken_for = shown(self.classes[pair.label]), shown(self.classes[pair.taken_for])
        share = percent(pair.count / pair.of_label)
        return f"{label} taken for {taken_for}: {share} of {label} ({pair.count:,} of {pair.of_label:,})"

    def _mistake(self, one: Mistake) -> str:
        file = shown(self.names.get(one.record) or f"record {one.record}")
        label, taken_for = shown(self.classes[one.label]), shown(self.classes[one.taken_for])
        return f"{file}: {label} taken for {taken_for}, {percent(one.probability)}"

    def to_dict(self) -> dict[str, Any]:
        """An object for JSON: errors are shares, with 95 % intervals, top-5 null with five classes or fewer;
        `log_probability` is the mean natural logarithm of the label's.
        """
        return {
            "split": self.split,
            "dataset": self.dataset,
            "records": self.records,
            "images": self.images,
            "classes": len(self.classes),
            "bad_records": list(self.bad),
            "bad_files": [self.names.get(record, "") for record in self.bad],
            "images_per_s": self.images_per_s,
            "wait_share": self.waited_s / self.seconds,
            "weights": list(self.weights),
            "results": [
                {"name": name, "views": {str(count): _numbers(of) for count, of in by_views.items()}}
                for name, by_views in self.rows
            ],
            "confused": [
                {**asdict(pair), "class": self.classes[pair.label], "taken_for_class": self.classes[pair.taken_for]}
                for pair in self.confusions
            ],
            "mistakes": [
                {
                    **asdict(one),
                    "name": self.names.get(one.record, ""),
                    "class": self.classes[one.label],
                    "taken_for_class": self.classes[one.taken_for],
                }
                for one in self.mistakes
            ],
        }


def _numbers(evaluation: Evaluation) -> dict[str, float | list[float] | None]:
    errors = {"top1": evaluation.top1_error, "top5": evaluation.top5_error}
    shares = {f"{name}_error": error for name, error in errors.items()}
    intervals = {
        f"{name}_interval": None if error is None else list(wilson(error, evaluation.images))
        for name, error in errors.items()
    }
    return {**shares, **intervals, "log_probability": _finite(-evaluation.loss)}


def _table(rows: Sequence[tuple[str, ByViews]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    by_count = rows[0][1]
    titles = {count: "  ".join(_figures(of)) for count, of in by_count.items()}
    heads = [f"{count} view{'s' if count > 1 else ''}".center(len(titles[count])) for count in by_count]
    lines = [" " * width + "".join(f"   {text}" for text in texts) for texts in (heads, titles.values())]
    for name, by_views in rows:
        lines.append(name.ljust(width) + "".join(f"   {'  '.join(_figures(of).values())}" for of in by_views.values()))
    return [line.rstrip() for line in lines]


def _figures(of: Evaluation) -> dict[str, str]:
    figures = {f"{'top-1 error':>11}": f"{percent(of.top1_error):>11}"}
    figures[f"{'95 %':>11}"] = f"{in_percent(of.top1_error, of.images):>11}"
    if of.top5_error is not None:
        figures[f"{'top-5 error':>11}"] = f"{percent(of.top5_error):>11}"
    return figures | {f"{'log p':>7}": f"{-of.loss:>7.3f}"}


def write_jsonl(
    path: Path, by_views: Mapping[int, Answers], classes: tuple[str, ...], names: Mapping[int, str] | None = None
) -> None:
    """Write a line for each answered record, in their order:

    record, label, class     of the dataset; label counts from 0
    name                     of the record's file, a path below the split's folder; "" if unknown
    views                    by number of views: `rank` of the label and its `probability`, and the `likeliest` classes,
                             falling, each with `class`, `label` and `probability`
    """
    first = next(iter(by_views.values()))
    with written(path) as file:
        for record in first.answered.tolist():
            label = int(first.labels[record])
            views = {str(count): _answer(answers, record, classes) for count, answers in by_views.items()}
            name = (names or {}).get(record, "")
            line = {"record": record, "name": name, "label": label, "class": classes[label], "views": views}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _answer(answers: Answers, record: int, classes: tuple[str, ...]) -> dict[str, Any]:
    likeliest = zip(answers.classes[record].tolist(), answers.probabilities[record].tolist(), strict=True)
    return {
        "rank": int(answers.rank[record]),
        "probability": _finite(float(answers.probability[record])),
        "likeliest": [{"class": classes[k], "label": k, "probability": _finite(p)} for k, p in likeliest],
    }


def _finite(probability: float) -> float | None:
    return probability if math.isfinite(probability) else None
