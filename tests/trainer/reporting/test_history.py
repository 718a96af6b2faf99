"""metrics.jsonl as a report reads it: growing, resumed, damaged, or no run's at all."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from trainer.reporting.history import is_training, means, read_history
from trainer.training.metrics import FILE_NAME

START = {"kind": "run", "step": 0, "epoch": 0, "recipe": {"batch_size": 4}, "dataset": {"train_records": 10}}


def step(number: Any, epoch: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "epoch": epoch, "train_error": 0.5} | more


def history(folder: Path, *lines: object) -> Any:
    text = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (folder / FILE_NAME).write_text("".join(text))
    return read_history(folder)


def test_steps_lie_at_the_epochs_done_at_them_also_after_a_resume_with_another_batch_size(tmp_path: Path) -> None:
    resumed = {**START, "step": 3, "epoch": 1, "recipe": {"batch_size": 5}}
    end = {"kind": "epoch", "step": 3, "epoch": 0}
    found = history(tmp_path, START, step(1, 0), step(2, 0), step(3, 0), end, resumed, step(4, 1), step(5, 1))
    assert found.steps_at == pytest.approx([1 / 3, 2 / 3, 1, 1.5, 2])
    assert (found.damaged, len(found.starts), len(found.epochs)) == (0, 2, 1)


def test_damaged_lines_are_counted_and_one_that_is_being_written_is_not(tmp_path: Path) -> None:
    damaged = ["{\n", "[1]\n", '{"kind": "other"}\n', "\0\xff\n", step(None, 0), step("1", 0), "[" * 100_000 + "\n"]
    found = history(tmp_path, START, step(1, 0), *damaged, step(2, 0, train_error="x"), '{"kind": "step", "st')
    assert (found.damaged, len(found.steps)) == (len(damaged), 2)
    assert found.epochs_until(0.5) is not None


def test_a_start_that_is_damaged_leaves_whole_epochs(tmp_path: Path) -> None:
    start = {"kind": "run", "recipe": 3, "dataset": {"train_records": "many"}}
    found = history(tmp_path, start, step(7, 2), step(8, 2))
    assert (found.steps_at, found.recipe) == ([2, 2], {})


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in (("nowhere", "there is no run"), ("file", "not the folder"), (".", "holds no metrics.jsonl")):
        with pytest.raises(UsageError, match=reason):
            read_history(tmp_path / folder)


def test_a_run_is_training_while_its_metrics_are_locked(tmp_path: Path) -> None:
    assert not is_training(tmp_path)
    with (tmp_path / FILE_NAME).open("w") as file:
        assert not is_training(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_training(tmp_path)
    assert not is_training(tmp_path)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan"))), st.integers(1, 50))
def test_means_keep_the_sum_and_their_number_in_bounds(values: list[float], points: int) -> None:
    finite = [value for value in values if value == value]
    at, found = means([float(place) for place in range(len(values))], values, points)
    assert len(at) == len(found) <= 2 * points
    assert at == sorted(at)
    assert not finite or min(finite) - 1e-3 <= min(found) <= max(found) <= max(finite) + 1e-3
