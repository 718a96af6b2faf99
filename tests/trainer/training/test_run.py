"""Whole runs of a tiny net on drawn images: what they leave behind, how they stop and resume."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import Diverged, LoaderError, LoaderTimeout, UsageError
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader
from tests.support.paths import ROOT
from tests.support.tiny_run import STEPS, STEPS_PER_EPOCH, Train, equal, lines, train_with, weights, without_times
from trainer.checkpoints import checkpoint
from trainer.evaluation.validation import Evaluation
from trainer.network.one_device import OneDevice
from trainer.training import loop
from trainer.training.outcome import Outcome, last_line
from trainer.training.run_folder import run_folder


def test_a_run_leaves_its_history_and_its_checkpoints(train: Train, tmp_path: Path) -> None:
    outcome = train()
    folder = tmp_path / "run"
    assert (outcome.state.epoch, outcome.state.first, outcome.state.step) == (3, 0, STEPS)
    (start,) = lines(folder, "run")
    assert start["recipe"]["classes"] == 3
    assert start["dataset"] == {"train_records": 18, "val_records": 6, "classes": 3, "digest": "64" * 16}
    assert [line["step"] for line in lines(folder, "step")] == list(range(1, STEPS + 1))
    epochs = lines(folder, "epoch")
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    losses = [line["loss"] for line in lines(folder, "step")[:STEPS_PER_EPOCH]]
    mean = sum(loss * size for loss, size in zip(losses, (4, 4, 4, 4, 2), strict=True)) / 18
    assert epochs[0]["train_loss"] == pytest.approx(mean, rel=1e-6)
    assert outcome.evaluation is not None
    assert epochs[-1]["val_top1_error"] == outcome.evaluation.top1_error
    assert outcome.state.best_error == min(line["val_top1_error"] for line in epochs)
    best = checkpoint.load(folder / checkpoint.BEST)
    assert best.mean_hwc is not None
    assert best.mean_hwc.eq(120).all(), "the loader's mean image"
    assert "3 epochs: validation top-1 error" in last_line(outcome)
    assert str(folder) in last_line(outcome)


def test_the_noise_goes_off_with_its_epoch_in_a_new_stream(train: Train, loader: MemoryLoader) -> None:
    asked: list[tuple[float, int, int]] = []

    def note(spec: StreamSpec, epoch: int, position: int) -> None:
        if spec.split == "train":
            asked.append((spec.sigma, epoch, position))

    loader.on_ask = note
    train()
    assert asked == [(0.0 if epoch == 2 else 0.1, epoch, first) for epoch in range(3) for first in range(0, 18, 4)]


STOPS = (3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """Trains a kind of net with nothing in its way, once."""
    folder = tmp_path_factory.mktemp("undisturbed")

    @functools.cache
    def trained(net: str) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            return train_with(patch, MemoryLoader(train_records=18, val_records=6), folder)(net, net=net)

    return trained


@pytest.mark.parametrize("net", ["halves", "one-device"])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    train: Train, undisturbed: Callable[[str], Outcome], tmp_path: Path, net: str
) -> None:
    """Stopped within an epoch, at its end, after its first step, and in the last."""
    for steps in STOPS:
        assert train(resume=steps > STOPS[0], steps=steps, net=net).state.step == steps
    resumed, whole = train(resume=True, net=net), undisturbed(net)
    assert equal(weights(resumed), weights(whole))
    assert resumed.state == whole.state
    for kind in ("step", "epoch"):
        histories = [without_times(lines(folder, kind)) for folder in (tmp_path / "run", whole.checkpoint.parent)]
        assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("split", "number"),
    [("train", signal.SIGTERM), ("val", signal.SIGINT), ("train", signal.SIGUSR1), ("val", signal.SIGHUP)],
)
def test_a_signal_while_waiting_for_data_saves_and_stops(
    train: Train,
    undisturbed: Callable[[str], Outcome],
    loader: MemoryLoader,
    split: str,
    number: signal.Signals,
) -> None:
    def interrupt(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, position) == (split, 4):
            os.kill(os.getpid(), number)

    loader.on_ask = interrupt
    stopped = train(stopped_by=number)
    assert (stopped.state.epoch, stopped.state.first) == ((0, 4) if split == "train" else (0, 18))
    assert number.name in last_line(stopped)
    assert str(stopped.checkpoint) in last_line(stopped)
    loader.on_ask = lambda *_: None
    assert equal(weights(train(resume=True)), weights(undisturbed("halves")))


def test_a_signal_during_a_step_lets_the_step_finish(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_with_signal(self: Any, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    step = OneDevice.train_step
    monkeypatch.setattr(OneDevice, "train_step", step_with_signal)
    stopped = train(net="one-device", stopped_by=signal.SIGTERM)
    assert stopped.state.step == 1
    tally = checkpoint.load(stopped.checkpoint).state.tally
    assert tally is not None
    assert tally.images == 4


def epoch_digests(folder: Path) -> list[str]:
    return [line["digest"] for line in lines(folder, "epoch")]


def test_an_epochs_digest_is_the_same_through_a_stop_and_at_any_batch_size(train: Train, tmp_path: Path) -> None:
    train("undisturbed", digests="on")
    train("stopped", steps=STOPS[0], digests="on")
    for steps in (*STOPS[1:], None):
        train("stopped", resume=True, steps=steps)  # what was asked for once is the run's
    train("larger", digests="verify", batch_size=7)
    expected = epoch_digests(tmp_path / "undisturbed")
    assert len(set(expected)) == 3
    assert epoch_digests(tmp_path / "stopped") == epoch_digests(tmp_path / "larger") == expected


def test_an_epoch_that_had_digests_for_a_part_only_has_none(train: Train, tmp_path: Path) -> None:
    train(steps=3)
    train(resume=True, digests="on")
    assert [told is None for told in epoch_digests(tmp_path / "run")] == [True, False, False]


def test_bad_records_are_logged_once_and_counted_every_epoch(
    train: Train,
    loader: MemoryLoader,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loader.bad = {("train", 5), ("train", 9), ("val", 2)}
    train(steps=2)
    train(resume=True)
    assert [line["replaced"] for line in lines(tmp_path / "run", "epoch")] == [2, 2, 2]
    told = [message for message in caplog.messages if "is corrupt" in message]
    assert told.count("record 1009 (train-1009.jpg) of train is corrupt, another takes its place: cut off") == 1
    assert told.count("record 1002 (val-1002.jpg) of val is corrupt, another takes its place: cut off") == 1
    assert capsys.readouterr().err.count("corrupt records replaced: 2") == 3


def test_what_is_done_with_bad_records_stays_as_it_was_asked(
    train: Train, loader: MemoryLoader, tmp_path: Path
) -> None:
    train(steps=1, on_bad_record="stop")
    train(resume=True, steps=2)
    assert {spec.on_bad_record for spec in loader.specs} == {"stop"}
    train(resume=True, on_bad_record="replace")  # how one goes on, where a record has stopped the run
    assert loader.specs[-1].on_bad_record == "replace"
    assert lines(tmp_path / "run", "epoch")[-1]["stream"] == {
        "split": "train", "seed": 0, "view": "train", "crop": 67, "sigma": 0.0, "pixels": "uint8",
        "on_bad_record": "replace", "shuffle": True,
    }  # fmt: skip


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def test_signals_are_left_as_they_were(train: Train) -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    train(steps=1)
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_sighup_stays_ignored_under_nohup(train: Train, loader: MemoryLoader) -> None:
    loader.on_ask = lambda *_: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        outcome = train(epochs=1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome.state.epoch == 1


ENDS_BY = {  # what is sent, seconds between, the end of the block; whether to a rank; the signal that ends the process
    ("HUP HUP USR1 TERM HUP", False): 0,
    ("TERM HUP USR1", False): 0,
    ("TERM TERM", False): signal.SIGTERM,
    ("INT TERM", False): signal.SIGTERM,
    ("TERM 29 TERM TERM USR1", True): 0,
    ("INT TERM", True): 0,
    ("TERM 30 TERM", True): signal.SIGTERM,
    ("TERM TERM INT", True): signal.SIGINT,
    ("TERM end TERM HUP USR1", True): 0,
    ("TERM end 30 TERM", True): signal.SIGTERM,
    ("TERM end INT", True): signal.SIGINT,
    ("TERM end TERM", False): signal.SIGTERM,
}
FORKS = """
import contextlib, os, signal, sys
from trainer.training.stopping import StopSignals
for case in sys.argv[1:]:
    of_rank, *words = case.split()
    if (child := os.fork()) == 0:
        os.environ |= {"RANK": "0"} if of_rank == "True" else {}
        clock = 0.0
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with contextlib.ExitStack() as block:
            signals = block.enter_context(StopSignals(now_s=lambda: clock))
            for word in words:
                if word.isdigit(): clock += int(word)
                elif word == "end": block.close()
                else: os.kill(os.getpid(), signal.Signals[f"SIG{word}"])
            os._exit(signals.received != signal.Signals[f"SIG{words[0]}"])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_second_ctrl_c_or_sigterm_ends_the_process_at_once_but_a_rank_not_by_sigterm_for_30_s() -> None:
    cases = [f"{of_rank} {sent}" for sent, of_rank in ENDS_BY]
    done = subprocess.run([sys.executable, "-c", FORKS, *cases], cwd=ROOT, capture_output=True, text=True)
    assert [int(line) for line in done.stdout.split()] == [-number for number in ENDS_BY.values()]


def test_a_loader_that_fails_costs_nothing(
    train: Train, undisturbed: Callable[[str], Outcome], loader: MemoryLoader
) -> None:
    def fall_silent(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, epoch, position) == ("train", 1, 8):
            raise LoaderTimeout("no response from tcp://there for 60 s")

    loader.on_ask = fall_silent
    with pytest.raises(LoaderError, match=r"no response from tcp://there.*saved in .*checkpoint-00000007.*--resume"):
        train()
    loader.on_ask = lambda *_: None
    assert equal(weights(train(resume=True)), weights(undisturbed("halves")))


def test_the_validation_error_drives_rates_and_the_best_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    errors = iter([0.5, 0.4, 0.45, 0.4, 0.42])
    monkeypatch.setattr(loop, "evaluate", lambda *_: Evaluation(next(errors), 0.1, 1.0, 6))
    outcome = train(epochs=5)  # over five epochs patience is two, and the second phase begins with epoch 3
    assert outcome.state.best_error == 0.4
    assert checkpoint.load(tmp_path / "run" / checkpoint.BEST).state.step == 2 * STEPS_PER_EPOCH
    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "epoch")]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.003, 0.0003])


def test_a_run_without_a_validation_set_trains_and_says_so(
    train: Train, loader: MemoryLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader.records["val"] = 0
    caplog.set_level("INFO")
    outcome = train()
    assert outcome.evaluation is None
    assert [message for message in caplog.messages if "without validation" in message] == [
        "training without validation: there is no val split"
    ]
    assert {line["val_top1_error"] for line in lines(tmp_path / "run", "epoch")} == {None}
    assert "without validation" in last_line(outcome)


@pytest.mark.parametrize(("first", "second"), [("halves", "one-device"), ("one-device", "halves")])
def test_the_two_kinds_of_net_go_on_from_each_others_checkpoints(
    train: Train, tmp_path: Path, first: str, second: str
) -> None:
    train(steps=7, net=first)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    ours, theirs = (
        weights(train(resume=True, steps=9, net=first)),
        weights(train("copy", resume=True, steps=9, net=second)),
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-6)


def test_a_run_that_exchanges_by_way_of_the_host_has_the_same_bits(train: Train) -> None:
    assert equal(weights(train("host", steps=3, exchange="host")), weights(train("direct", steps=3)))


def test_a_way_of_exchange_is_refused_where_nothing_is_exchanged(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exchange host: --net one-device exchanges nothing"):
        train(net="one-device", exchange="host")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = OneDevice.train_step

    def spoilt_at_three(self: Any, x: Any, labels: Any, **kwargs: Any) -> torch.Tensor:
        told: torch.Tensor = step(self, x, labels, **kwargs)
        return told * float("nan") if kwargs["step"] == 2 else told

    monkeypatch.setattr(OneDevice, "train_step", spoilt_at_three)
    with pytest.raises(Diverged, match=r"the loss is nan at step 3 \(epoch 1\).*--lr"):
        train(net="one-device")
    assert checkpoint.all_in(tmp_path / "run") == []


def test_checkpoints_are_written_as_often_as_asked(train: Train, tmp_path: Path) -> None:
    train(steps=4, checkpoint_minutes=0)
    assert [checkpoint.load(path).state.step for path in checkpoint.all_in(tmp_path / "run")] == [2, 3, 4]


def test_runs_without_a_name_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [run_folder(None, "demo") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)


def test_a_run_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--run"):
        run_folder(tmp_path / "file" / "run", "demo")


def test_an_interrupted_epoch_keeps_what_it_waited_for_before(
    train: Train, loader: MemoryLoader, tmp_path: Path
) -> None:
    loader.on_ask = lambda *_: time.sleep(0.1)
    train(steps=2)
    loader.on_ask = lambda *_: None
    train(resume=True, steps=STEPS_PER_EPOCH)
    (epoch,) = lines(tmp_path / "run", "epoch")
    assert epoch["waits"]["no_loader"] * epoch["train_seconds"] >= 0.2  # batches made in memory know of no loader
    for line in [epoch, *lines(tmp_path / "run", "step")]:
        assert sum(line["waits"].values()) == line["wait_share"]
