"""Weights that compute NaN or infinity are neither saved nor called the best; the error says how to continue."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import CheckpointError, Diverged
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import STEPS_PER_EPOCH, Train
from trainer.checkpoints import checkpoint
from trainer.checkpoints.resume import load_named, newest_whole

TOO_HIGH: dict[str, Any] = {"rate": 1e30}  # one update, and the weights answer with nan


@pytest.mark.parametrize("val_records", [6, 0])
def test_an_update_that_spoils_the_weights_is_noticed_before_they_are_saved(
    train: Train, loader: MemoryLoader, tmp_path: Path, val_records: int
) -> None:
    loader.records["val"] = val_records
    what = "the validation loss is nan" if val_records else r"conv1\.weight is no longer finite|answers with nan"
    with pytest.raises(Diverged, match=rf"({what}) at step 1 \(epoch 1\).*; nothing was saved; start again"):
        train(batch_size=18, epochs=1, **TOO_HIGH)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_checkpoint_in_the_midst_of_an_epoch_is_tried_before_it_is_saved(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="nothing was saved"):
        train(checkpoint_minutes=0, **TOO_HIGH)
    assert checkpoint.all_in(tmp_path / "run") == []


def test_a_stop_right_after_the_update_that_spoils_the_weights_saves_nothing(
    train: Train, loader: MemoryLoader, tmp_path: Path
) -> None:
    def stop(spec: StreamSpec, epoch: int, position: int) -> None:
        if position == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    loader.on_ask = stop
    with pytest.raises(Diverged, match="at step 1 "):
        train(**TOO_HIGH)
    assert checkpoint.all_in(tmp_path / "run") == []


def test_the_last_good_checkpoint_is_named_and_gone_on_from(train: Train, tmp_path: Path) -> None:
    good = train(steps=STEPS_PER_EPOCH + 2).checkpoint
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.safetensors")}
    again = rf"alexnet-trainer --resume --run {tmp_path}/run --cpu .*--lr 1e\+29"
    with pytest.raises(Diverged, match=rf"{good} is the last good checkpoint; to continue from it: {again}"):
        train(resume=True, **TOO_HIGH)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.safetensors")} == before
    assert train(resume=True, rate=0.001).state.epoch == 3


def test_an_older_checkpoint_is_named_if_the_newest_diverges_too(train: Train, tmp_path: Path) -> None:
    train(steps=4, checkpoint_minutes=0)
    *_, older, newest = checkpoint.all_in(tmp_path / "run")
    with pytest.raises(Diverged, match=rf"or from {older} once {newest.name} is moved away"):
        train(resume=True, **TOO_HIGH)


@pytest.mark.parametrize("poison", ["weights", "velocities"])
def test_one_that_was_saved_with_nan_all_the_same_is_passed_over(train: Train, tmp_path: Path, poison: str) -> None:
    good = train(steps=2).checkpoint
    loaded = checkpoint.load(good)
    spoilt = replace(loaded, state=replace(loaded.state, step=3))
    getattr(spoilt, poison)["fc8.bias"][0] = float("nan")
    bad = checkpoint.save(tmp_path / "run", spoilt)
    with pytest.raises(CheckpointError, match=rf"{bad}: its {poison}/fc8\.bias is not finite"):
        load_named(bad)
    assert newest_whole(tmp_path / "run").path == good


def test_the_pictures_a_checkpoint_is_tried_on_change_no_bit(train: Train, tmp_path: Path) -> None:
    often, seldom = train("often", checkpoint_minutes=0), train("seldom")
    ours, theirs = (checkpoint.load(each.checkpoint).weights for each in (often, seldom))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
