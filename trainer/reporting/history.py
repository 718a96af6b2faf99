"""A run's `metrics.jsonl`, read while it grows and though lines of it may be damaged."""

import contextlib
import fcntl
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UsageError
from trainer.training.metrics import FILE_NAME

Entry = dict[str, Any]

NAN = math.nan


@dataclass(frozen=True, slots=True)
class History:
    """The lines of a run by kind, in order; `damaged` counts those that are none.

    steps_at   epochs done at each of `steps`, a fraction
    """

    folder: Path
    starts: list[Entry] = field(default_factory=list)
    steps: list[Entry] = field(default_factory=list)
    epochs: list[Entry] = field(default_factory=list)
    steps_at: list[float] = field(default_factory=list)
    damaged: int = 0

    @property
    def name(self) -> str:
        return self.folder.resolve().name or str(self.folder)

    @property
    def start(self) -> Entry:
        """The latest start or resume; empty if there is none."""
        return self.starts[-1] if self.starts else {}

    @property
    def recipe(self) -> Entry:
        return table(self.start, "recipe")

    @property
    def dataset(self) -> Entry:
        return table(self.start, "dataset")

    def epochs_until(self, error: float) -> float | None:
        """Epochs until the training error was `error` (a share) or less, a mean over about a hundredth of the run."""
        at, errors = means(self.steps_at, column(self.steps, "train_error"))
        return next((epoch for epoch, now in zip(at, errors, strict=True) if now <= error), None)


def read_history(folder: Path) -> History:
    """Raises UsageError if `folder` is not a run's."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UsageError(f"{folder} is not the folder of a run" if folder.exists() else f"there is no run {folder}")
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise UsageError(f"{folder} is not the folder of a run: it holds no {FILE_NAME}") from None
    entries = [_entry(line) for line in lines if line.endswith(b"\n")]  # the last one may be half written
    kinds: dict[str, list[Entry]] = {"run": [], "step": [], "epoch": []}
    at: list[float] = []
    clock = _Clock()
    for entry in filter(None, entries):
        clock.take_in(entry)
        kinds[entry["kind"]].append(entry)
        if entry["kind"] == "step":
            at.append(clock.at(entry))
    return History(folder, kinds["run"], kinds["step"], kinds["epoch"], at, entries.count(None))


def is_training(folder: Path) -> bool:
    """True while a trainer holds the lock on the run's metrics."""
    with contextlib.suppress(FileNotFoundError), (folder / FILE_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def number(entry: Entry, name: str) -> float:
    """NaN if there is none."""
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else NAN


def column(entries: Iterable[Entry], name: str) -> list[float]:
    return [number(entry, name) for entry in entries]


def table(entry: Entry, name: str) -> Entry:
    value = entry.get(name)
    return value if isinstance(value, dict) else {}


def means(at: list[float], values: list[float], points: int = 100) -> tuple[list[float], list[float]]:
    """About `points` means of neighbouring values, each at the last one's place; NaN is left out."""
    kept = [(x, y) for x, y in zip(at, values, strict=True) if math.isfinite(y)]
    width = max(1, len(kept) // points)
    groups = [kept[first : first + width] for first in range(0, len(kept), width)]
    return [group[-1][0] for group in groups], [sum(y for _, y in group) / len(group) for group in groups]


class _Clock:
    """Epochs done at a step; a resume may change the batch size."""

    def __init__(self) -> None:
        self._per_epoch = NAN
        self._epoch = self._step = 0.0

    def take_in(self, entry: Entry) -> None:
        if entry["kind"] == "run":
            records = number(table(entry, "dataset"), "train_records")
            batch_size = number(table(entry, "recipe"), "batch_size")
            if records > 0 and batch_size > 0:
                self._per_epoch = math.ceil(records / batch_size)
        elif entry["kind"] == "epoch":
            self._epoch, self._step = number(entry, "epoch") + 1, number(entry, "step")

    def at(self, step: Entry) -> float:
        epoch = number(step, "epoch")
        done = self._epoch + (number(step, "step") - self._step) / self._per_epoch
        return min(max(done, epoch), epoch + 1) if math.isfinite(done) else epoch


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("kind") not in ("run", "step", "epoch"):
        return None
    whole = entry["kind"] == "run" or all(math.isfinite(number(entry, name)) for name in ("step", "epoch"))
    return entry if whole else None
