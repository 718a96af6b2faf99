"""The checkpoint of a folder from which a run resumes, and the fate of damaged ones."""

import itertools
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CheckpointError, UsageError
from tests.support.checkpoints import a_checkpoint, flip_a_bit
from trainer.checkpoints import checkpoint
from trainer.checkpoints.resume import first_whole, load_named, newest_whole


def save(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, a_checkpoint(step), keep=10) for step in steps]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_taken_where_all_are_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = save(tmp_path, 1, 2, 3)
    found = newest_whole(tmp_path)
    assert (found.path, found.checkpoint.state.step, found.passed_over) == (paths[2], 3, ())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_damaged_ones_are_passed_over_each_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = save(tmp_path, 1, 2, 3, 4)
    flip_a_bit(paths[3])
    paths[2].write_bytes(b"")
    before = names(tmp_path)
    found = newest_whole(tmp_path)
    assert (found.path, found.checkpoint.state.step) == (paths[1], 2)
    newer, older = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert f"{paths[3]}: it is damaged: its contents do not match their digest; passed over" in newer
    assert f"{paths[2]}: it is damaged" in older
    assert names(tmp_path) == before, "nothing is renamed before the folder is locked"


def test_a_run_that_goes_on_neither_counts_the_damaged_ones_nor_writes_over_them(tmp_path: Path) -> None:
    for path in save(tmp_path, 1, 2, 3, 4)[1:]:
        flip_a_bit(path)
    newest_whole(tmp_path).take_over()
    for step in (2, 3):
        checkpoint.save(tmp_path, a_checkpoint(step), keep=2)
    assert [path.name for path in checkpoint.all_in(tmp_path)] == [
        "checkpoint-00000002.safetensors",
        "checkpoint-00000003.safetensors",
    ]
    assert names(tmp_path)[1::2] == [f"checkpoint-0000000{step}.safetensors.damaged" for step in (2, 3)]
    assert names(tmp_path)[-1] == "checkpoint-00000004.safetensors.damaged"
    flip_a_bit(tmp_path / "checkpoint-00000003.safetensors", 900)
    newest_whole(tmp_path).take_over()
    assert "checkpoint-00000003.safetensors.damaged-2" in names(tmp_path)


def test_the_best_is_the_last_to_be_tried(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1, 2)
    checkpoint.save_best(first)
    flip_a_bit(second)
    assert newest_whole(tmp_path).path == first
    first.unlink()
    found = newest_whole(tmp_path)
    assert (found.path.name, found.checkpoint.state.step) == (checkpoint.BEST, 1)
    found.take_over()
    assert names(tmp_path) == [checkpoint.BEST, "checkpoint-00000002.safetensors.damaged"]


def test_where_none_verifies_all_are_named(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1, 2)
    checkpoint.save_best(second)  # a second name of the same file
    flip_a_bit(second)
    first.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError) as refused:
        newest_whole(tmp_path)
    told = str(refused.value)
    assert told.startswith("no checkpoint is valid: ")
    assert told.index(second.name) < told.index(first.name) < told.index(checkpoint.BEST)
    assert "\n" not in told
    assert names(tmp_path) == sorted([first.name, second.name, checkpoint.BEST])


def test_a_damaged_best_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    (first,) = save(tmp_path, 1)
    (tmp_path / checkpoint.BEST).write_bytes(b"nonsense")
    assert newest_whole(tmp_path).path == first
    checkpoint.save_best(first)
    assert checkpoint.load(tmp_path / checkpoint.BEST).state.step == 1


def test_a_best_that_a_kill_left_unnamed_is_named_by_the_run_that_goes_on(tmp_path: Path) -> None:
    (older,) = save(tmp_path, 1)
    checkpoint.save_best(older)
    best = a_checkpoint(2)
    after_epoch_2 = replace(best.state, epoch=2, first=0, best_error=0.25, best_epoch=1)
    path = checkpoint.save(tmp_path, replace(best, state=after_epoch_2))
    newest_whole(tmp_path).take_over()
    assert (tmp_path / checkpoint.BEST).samefile(path)
    later = a_checkpoint(3)
    checkpoint.save(tmp_path, replace(later, state=replace(after_epoch_2, step=3, first=96)))
    newest_whole(tmp_path).take_over()
    assert (tmp_path / checkpoint.BEST).samefile(path)


def test_a_folder_without_any_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no checkpoint to resume from"):
        newest_whole(tmp_path)


def test_a_run_is_read_whole_while_a_training_saves_and_prunes_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    ended, steps = threading.Event(), itertools.count(2)

    def train() -> None:
        while not ended.is_set():
            checkpoint.save(tmp_path, a_checkpoint(next(steps)), keep=1)

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(8):
            for read in (load_named, newest_whole):
                found = read(tmp_path)
                assert found.path.name == f"checkpoint-{found.checkpoint.state.step:08d}.safetensors"
    finally:
        ended.set()
        training.join()
    assert "passed over" not in caplog.text


def test_checkpoints_that_a_training_removes_after_they_were_listed_are_followed_to_newer_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2)
    steps = iter((3, 4))

    def listed_just_before_the_next_is_saved() -> list[Path]:
        listed = checkpoint.all_in(tmp_path)
        for step in itertools.islice(steps, 1):
            checkpoint.save(tmp_path, a_checkpoint(step), keep=1)
        return listed

    found = first_whole(listed_just_before_the_next_is_saved)
    assert found is not None
    assert (found.checkpoint.state.step, found.passed_over) == (4, ())
    assert "passed over" not in caplog.text
