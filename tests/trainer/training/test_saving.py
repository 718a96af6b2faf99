"""Training does not stand still while a checkpoint is written, and loses none."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import Diverged
from common.spec import StreamSpec
from tests.support.checkpoints import same_tensors
from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import STEPS, STEPS_PER_EPOCH, Train
from trainer.checkpoints import checkpoint
from trainer.network.one_device import OneDevice


class SlowDisk:
    """A disk that, while it is slow, syncs nothing that a thread asks for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fast = threading.Event()
        self.blocked_signals = set[int]()
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                self.blocked_signals = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
                assert self._fast.wait(60)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", slow)

    def recover(self) -> None:
        self._fast.set()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.recover()


def saved_steps(folder: Path) -> list[int]:
    return [checkpoint.load(path).state.step for path in checkpoint.all_in(folder)]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_training_goes_on_while_a_checkpoint_is_written_which_stays_that_of_its_moment(
    train: Train, loader: MemoryLoader, tmp_path: Path, slow_disk: SlowDisk
) -> None:
    found: list[list[Path]] = []

    def recover_two_steps_later(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, epoch, position) == ("train", 1, 8):
            found.append(checkpoint.all_in(tmp_path / "run"))
            slow_disk.recover()

    loader.on_ask = recover_two_steps_later
    train("run")
    assert found == [[]], "the checkpoint of the first epoch's end"
    assert slow_disk.blocked_signals >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    train("stopped", steps=STEPS_PER_EPOCH)
    ours, theirs = (checkpoint.all_in(tmp_path / folder)[0] for folder in ("run", "stopped"))
    assert same_tensors(ours, theirs)
    assert checkpoint.load(ours).state == checkpoint.load(theirs).state
    assert saved_steps(tmp_path / "run") == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH, STEPS]


def test_a_stop_waits_for_the_disk(train: Train, loader: MemoryLoader, slow_disk: SlowDisk) -> None:
    def stop(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, epoch, position) == ("train", 0, 4):
            threading.Timer(0.2, slow_disk.recover).start()
            os.kill(os.getpid(), signal.SIGTERM)

    loader.on_ask = stop
    outcome = train(checkpoint_minutes=0, stopped_by=signal.SIGTERM)
    assert checkpoint.load(outcome.checkpoint).state.step == 1
    assert not threads()


def test_a_checkpoint_whose_next_step_diverges_has_no_name(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spoilt_at_four(self: Any, x: Any, labels: Any, **kwargs: Any) -> torch.Tensor:
        told: torch.Tensor = step(self, x, labels, **kwargs)
        return told * float("nan") if kwargs["step"] == 3 else told

    step = OneDevice.train_step
    monkeypatch.setattr(OneDevice, "train_step", spoilt_at_four)
    with pytest.raises(
        Diverged, match=r"the loss is nan at step 4 .*checkpoint-00000002\S+ is the last good checkpoint"
    ):
        train(net="one-device", checkpoint_minutes=0)
    assert saved_steps(tmp_path / "run") == [1, 2]
    assert not list((tmp_path / "run").glob("*.partial"))


def test_an_error_of_any_kind_leaves_the_last_checkpoint_whole(
    train: Train, loader: MemoryLoader, tmp_path: Path
) -> None:
    def fail(spec: StreamSpec, epoch: int, position: int) -> None:
        if position == 12:
            raise RuntimeError("a bug")

    loader.on_ask = fail
    with pytest.raises(RuntimeError, match="a bug"):
        train(checkpoint_minutes=0)
    assert saved_steps(tmp_path / "run") == [1, 2, 3]
    assert not threads()


def test_a_checkpoint_that_cannot_be_written_is_told_after_the_next_step_and_was_not_the_best(
    train: Train, loader: MemoryLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "run" / f"checkpoint-{STEPS_PER_EPOCH:08d}.safetensors"
    in_the_way.mkdir(parents=True)
    outcome = train()
    (warning,) = [message for message in caplog.messages if "training continues" in message]
    assert f"{in_the_way} cannot be written" in warning
    assert saved_steps(tmp_path / "run") == [2 * STEPS_PER_EPOCH, STEPS]
    best = checkpoint.load(tmp_path / "run" / checkpoint.BEST).state
    assert best.best_epoch == outcome.state.best_epoch != 0
