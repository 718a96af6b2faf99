"""Runs of a tiny net on drawn images, and what a run leaves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.memory_loader import MemoryLoader
from trainer.checkpoints import checkpoint
from trainer.recipes.named import DEMO, RECIPES
from trainer.recipes.recipe import Phase, Plateau
from trainer.training import launch
from trainer.training.metrics import FILE_NAME, read
from trainer.training.outcome import Outcome
from trainer.training.train_options import TrainOptions

TINY = replace(
    DEMO,
    name="tiny",
    width=0.02,
    epochs=3,
    batch_size=4,
    input_size=67,  # conv5 makes maps of one pixel
    crop=67,
    phase=(Phase(0, 0.01), Phase(2, 0.003, sigma=0.0)),
    plateau=Plateau(patience=1),
)
STEPS_PER_EPOCH = 5  # of 18 records in batches of 4: the last is smaller
STEPS = 3 * STEPS_PER_EPOCH

Train = Callable[..., Outcome]


def train_with(monkeypatch: pytest.MonkeyPatch, loader: MemoryLoader, tmp_path: Path) -> Train:
    """A function that trains the tiny recipe on `loader`'s images, in the folder "run" by default.

    Its `stopped_by` is the signal that the test sends: one from outside, such as of `timeout`, ends no run unnoticed.
    """
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    monkeypatch.setattr(launch, "open_client", lambda *_: loader)

    def train(folder: str = "run", stopped_by: int | None = None, **options: Any) -> Outcome:
        given = {"cpu": True, "recipe": None if options.get("resume") else "tiny", "log_steps": 1, "threads": 1}
        outcome = launch.run(TrainOptions(**(given | options), folder=tmp_path / folder))
        assert outcome.stopped_by == stopped_by, "a signal from outside" if stopped_by is None else "no signal came"
        return outcome

    return train


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    loaded = checkpoint.load(outcome.checkpoint)
    return loaded.weights | {f"velocity of {name}": v for name, v in loaded.velocities.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read(folder / FILE_NAME) if line["kind"] == kind]


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {"images_per_s", "wait_share", "waits", "decoded_share", "train_seconds", "val_seconds"}
    return [{key: value for key, value in entry.items() if key not in times} for entry in entries]
