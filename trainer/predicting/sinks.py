"""Outputs that take answers as they come: table, JSON and CSV. Each is a coroutine, which a `Score` ends."""

import csv
import json
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli.console import result, shown
from common.cli.outputs import written
from common.cli.progress import percent
from common.errors import AlexNetError, ReaderGone
from trainer.predicting.likeliest import Answer, Score

Sink = Generator[None, Sequence[Answer] | Score, None]

_NAME_WIDTH, _CLASS_WIDTH = 60, 24  # characters of the table's columns at most, unless a file's name is longer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names of the classes, by label, and descriptions of some, by name."""

    classes: Sequence[str]
    words: dict[str, str] = field(default_factory=dict)

    def short(self, label: int) -> str:
        """The first words of a description, or the name, to print."""
        name = self.classes[label]
        words, _, _ = self.words.get(name, "").partition(", ")
        text = shown(words or name)
        return text if len(text) <= _CLASS_WIDTH else text[: _CLASS_WIDTH - 3] + "..."


def table(vocabulary: Vocabulary, labelled: bool) -> Sink:
    """Print a line for each image: its file, right or wrong, and the likeliest classes."""
    width = max(len(vocabulary.short(label)) for label in range(len(vocabulary.classes)))
    name_width = 0
    while not isinstance(answers := (yield), Score):
        names = [shown(os.fsdecode(answer.file.path)) for answer in answers]
        name_width = name_width or min(_NAME_WIDTH, max(map(len, names), default=0))
        lines = []
        for name, answer in zip(names, answers, strict=True):
            if answer.fault:
                continue
            cells = [f"{vocabulary.short(label):{width}} {percent(share):>7}" for label, share in answer.likeliest]
            verdict = {None: "     ", True: "right", False: "wrong"}[answer.is_correct]
            lines.append("  ".join([name.ljust(name_width), *[verdict] * labelled, *cells]))
        if lines:
            result("\n".join(lines))


def json_file(path: Path, vocabulary: Vocabulary, about: dict[str, Any]) -> Sink:
    """Write one object: `about`, then `files`, each on a line, then counts, and errors as shares of the labelled.

    A file has `file`; `label`, `class` and `correct` if its class is known; `likeliest`, falling, or `error`.
    """
    with written(path) as file:
        file.write(json.dumps(about)[:-1] + ', "files": [')
        separator = "\n"
        while not isinstance(answers := (yield), Score):
            for answer in answers:
                file.write(separator + json.dumps(_entry(answer, vocabulary)))
                separator = ",\n"
        score = answers
        counts = {"images": score.images, "bad": score.bad, "labelled": score.labelled}
        errors = {"top1_error": score.top1_error, "top5_error": score.top5_error}
        file.write("\n], " + json.dumps(counts | errors)[1:] + "\n")


def _entry(answer: Answer, vocabulary: Vocabulary) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": os.fsdecode(answer.file.path)}
    if (label := answer.file.label) is not None:
        entry |= {"label": label, "class": vocabulary.classes[label], "correct": answer.is_correct}
    if answer.fault:
        return entry | {"error": answer.fault}
    return entry | {"likeliest": [_likely(label, share, vocabulary) for label, share in answer.likeliest]}


def _likely(label: int, probability: float, vocabulary: Vocabulary) -> dict[str, Any]:
    name = vocabulary.classes[label]
    words = {"words": vocabulary.words[name]} if name in vocabulary.words else {}
    return {"class": name, **words, "label": label, "probability": probability}


def csv_file(path: Path, vocabulary: Vocabulary, top: int, labelled: bool) -> Sink:
    """Write a line for each file; its name has the bytes that it has on the disk."""
    places = range(1, min(top, len(vocabulary.classes)) + 1)
    truth = ["label", "class", "correct"] * labelled
    with written(path, errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a bare \r would break a line
        likely = [column for place in places for column in (f"class_{place}", f"probability_{place}")]
        writer.writerow(["file", *truth, *likely, "error"])
        while not isinstance(answers := (yield), Score):
            for answer in answers:
                label, correct = answer.file.label, answer.is_correct
                own = [label, "" if label is None else vocabulary.classes[label], None if correct is None else +correct]
                cells: list[Any] = [
                    cell for label, share in answer.likeliest for cell in (vocabulary.classes[label], share)
                ] or [None] * len(likely)
                writer.writerow([os.fsdecode(answer.file.path), *own[: len(truth)], *cells, answer.fault])


class Sinks:
    """Several outputs in a `with` block: one that fails is closed, and the others continue."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._open = list(sinks)
        self._failures: list[AlexNetError] = []

    def __enter__(self) -> "Sinks":
        for sink in list(self._open):
            self._advance(sink, None)
        return self

    def take(self, answers: Sequence[Answer]) -> None:
        """Raises AlexNetError if none is left."""
        for sink in list(self._open):
            self._advance(sink, answers)
        if not self._open:
            self._raise()

    def finish(self, score: Score) -> None:
        """Raises AlexNetError if any has failed."""
        for sink in list(self._open):
            self._advance(sink, score)
        self._raise()

    def _advance(self, sink: Sink, answers: Sequence[Answer] | Score | None) -> None:
        try:
            sink.send(answers)  # type: ignore[arg-type]  # None starts it
        except StopIteration:
            self._open.remove(sink)
        except AlexNetError as error:
            self._open.remove(sink)
            self._failures.append(error)

    def _raise(self) -> None:
        if reasons := [str(error) for error in self._failures if not isinstance(error, ReaderGone)]:
            raise AlexNetError("; ".join(reasons))
        if self._failures:
            raise self._failures[0]

    def __exit__(self, *_: object) -> None:
        for sink in self._open:
            sink.close()
