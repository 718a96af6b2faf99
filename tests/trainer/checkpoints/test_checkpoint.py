"""Checkpoints on disk: whole or absent, checked when read, few."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import CheckpointError, SaveError, UsageError
from tests.support.checkpoints import a_checkpoint
from tests.support.paths import ROOT
from tests.support.processes import wait_for
from trainer.checkpoints import checkpoint


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = a_checkpoint()
    written.weights["conv1.weight"] = written.weights["conv1.weight"].to(memory_format=torch.channels_last)
    read = checkpoint.load(checkpoint.save(tmp_path, written))
    assert read.state == written.state
    for name in written.weights:
        assert torch.equal(read.weights[name], written.weights[name])
        assert torch.equal(read.velocities[name], written.velocities[name])
    assert read.mean_hwc is not None
    assert written.mean_hwc is not None
    assert torch.equal(read.mean_hwc, written.mean_hwc)


def test_a_checkpoint_of_before_the_mean_image_was_kept_is_read(tmp_path: Path) -> None:
    assert checkpoint.load(checkpoint.save(tmp_path, replace(a_checkpoint(), mean_hwc=None))).mean_hwc is None


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_and_the_best_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (5, 99, 100, 99_999_999, 123_456_789):
        path = checkpoint.save(tmp_path, a_checkpoint(step), keep)
        if step == 5:
            checkpoint.save_best(path)
    newest = [100, 99_999_999, 123_456_789][-keep:]
    assert [checkpoint.load(path).state.step for path in checkpoint.all_in(tmp_path)] == newest
    assert checkpoint.newest(tmp_path) == path
    assert checkpoint.load(tmp_path / checkpoint.BEST).state.step == 5
    assert len(list(tmp_path.iterdir())) == keep + 1


def test_the_best_is_replaced_by_a_better_one(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_best(checkpoint.save(tmp_path, a_checkpoint(step)))
    assert checkpoint.load(tmp_path / checkpoint.BEST).state.step == 2


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint-00000001.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of this program"):
        checkpoint.load(path)


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no checkpoint"):
        checkpoint.newest(tmp_path)


def test_a_folder_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    good = checkpoint.save(tmp_path, a_checkpoint(1))
    (tmp_path / "checkpoint-00000002.safetensors").mkdir()  # in the way, for root too
    with pytest.raises(
        SaveError, match=r"checkpoint-00000002\.safetensors cannot be written: .*; the last good .* is .*1"
    ):
        checkpoint.save(tmp_path, a_checkpoint(2))
    assert checkpoint.load(good).state.step == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_name_appears_only_once_its_file_is_whole_and_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace_file = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        happened.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(partial: Path, path: Path) -> Path:
        assert not path.exists()
        assert checkpoint.load(partial).state.step == 130
        happened.append(f"name {path.name}")
        return replace_file(partial, path)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    name = checkpoint.save(tmp_path, a_checkpoint()).name
    assert happened == [f"sync {name}.partial", f"name {name}", f"sync {tmp_path.name}"]


def test_what_a_killed_run_began_is_cleared_away(tmp_path: Path) -> None:
    for name in ("checkpoint-00000007.safetensors.partial", "best.safetensors.partial"):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.save(tmp_path, a_checkpoint(8))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000008.safetensors"]


def test_others_may_read_a_checkpoint(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert checkpoint.save(tmp_path, a_checkpoint()).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.support.checkpoints import a_checkpoint
from trainer.checkpoints import checkpoint
big = a_checkpoint(1)
big.weights["fc6.weight"] = torch.randn(1000, 1000)
for step in range(1, 100_000):
    checkpoint.save(Path(sys.argv[1]), replace(big, state=replace(big.state, step=step)), keep=3)
"""


def test_a_killed_writer_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT)
    wait_for("some checkpoints", lambda: len(checkpoint.all_in(tmp_path)) >= 3)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(checkpoint.all_in(tmp_path)) >= 3
    for path in checkpoint.all_in(tmp_path):
        checkpoint.load(path)
