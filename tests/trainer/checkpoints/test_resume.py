"""Runs that may be resumed, and with which settings."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from common.decoder import named
from common.errors import CheckpointError, UsageError
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import STEPS_PER_EPOCH, TINY, Train, equal, lines, weights
from trainer.checkpoints import checkpoint
from trainer.checkpoints.resume import check_same_stream
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Phase
from trainer.recipes.recipe_file import to_toml
from trainer.training import launch
from trainer.training.outcome import Outcome, last_line
from trainer.training.train_options import TrainOptions


def test_a_folder_with_a_run_is_not_written_over(train: Train) -> None:
    train(steps=1)
    with pytest.raises(UsageError, match="already holds a run; --resume"):
        train(steps=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_resume_that_has_nothing_to_train_writes_nothing_and_says_so(train: Train, tmp_path: Path) -> None:
    done = train()
    before = contents(tmp_path / "run")
    different: list[dict[str, Any]] = [{"epochs": 1}, {"epochs": 2, "rate": 0.5}, {"steps": 3, "recipe": "tiny"}]
    for asked in ({}, *different):
        again = train(resume=True, **asked)
        assert contents(tmp_path / "run") == before
        assert again.checkpoint == done.checkpoint
        assert last_line(again).startswith("nothing to train: 3 epochs, 15 steps were done already; best top-1 error ")


def test_a_resume_that_is_stopped_before_its_first_step_leaves_the_checkpoint_as_it_is(
    train: Train, loader: MemoryLoader
) -> None:
    saved = train(steps=3).checkpoint
    before = saved.read_bytes()

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    loader.on_ask = stop
    assert train(resume=True, rate=0.5, stopped_by=signal.SIGTERM).checkpoint == saved
    assert saved.read_bytes() == before


def phases(outcome: Outcome) -> list[tuple[int, float]]:
    return [(phase.first_epoch, phase.rate) for phase in checkpoint.load(outcome.checkpoint).state.recipe.phase]


def test_a_schedule_is_stretched_from_the_original_however_often(train: Train) -> None:
    train(steps=1)
    assert phases(train(resume=True, steps=2, epochs=1)) == [(0, 0.01)], "one epoch has no room for two phases"
    assert phases(train(resume=True, steps=3)) == [(0, 0.01)]
    assert phases(train(resume=True, steps=4, epochs=3)) == [(0, 0.01), (2, 0.003)]
    assert phases(train(resume=True, steps=5, epochs=9, rate=0.02)) == [(0, 0.02), (6, 0.006)]
    assert phases(train(resume=True, steps=6, epochs=3)) == [(0, 0.02), (2, 0.006)]


def test_a_checkpoint_of_before_the_original_was_kept_takes_its_own_recipe_for_it(train: Train) -> None:
    path = train(steps=1, epochs=6).checkpoint
    loaded = checkpoint.load(path)
    older = replace(loaded.state, original=None, asked_rate=None, rate_factor=1.0)
    checkpoint.save(path.parent, replace(loaded, state=older))
    assert phases(train(resume=True, steps=2, epochs=12)) == [(0, 0.01), (8, 0.003)]


def test_a_rate_that_is_asked_for_in_a_later_phase_is_that_from_there_on(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(steps=2 * STEPS_PER_EPOCH + 1, rate=0.02)
    train(resume=True, steps=2 * STEPS_PER_EPOCH + 2, rate=0.02)  # as the same command does that is queued again
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    train(resume=True, rate=0.012)
    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "step")]
    before = rates[2 * STEPS_PER_EPOCH]
    assert before in (pytest.approx(0.006), pytest.approx(0.0006)), "the second phase's, divided on a plateau or not"
    assert rates[2 * STEPS_PER_EPOCH :] == pytest.approx([before, before, 0.012, 0.012, 0.012])
    assert changed(tmp_path / "run")[1:] == [{}, {**changed(tmp_path / "run")[2], "learning_rate": [before, ANY]}]
    assert (
        f"the learning rate goes up: 0.012 from here on, instead of {before:g}; --lr names another" in caplog.messages
    )


def test_a_rate_of_0_is_not_raised_in_proportion(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, phase=(Phase(0, 0.01), Phase(1, 0.0))))
    train(steps=STEPS_PER_EPOCH + 1)
    with pytest.raises(UsageError, match=r"--lr 0\.5: the rate is 0 by now.*edit --recipe"):
        train(resume=True, rate=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recipe": "source"},
            r"does not fit recipe source as asked: its conv1.weight is 8x3x11x11, .* 96x3x11x11; leave",
        ),
        ({"width": 0.5}, r"its conv1.weight is 8x3x11x11, the recipe's 48x3x11x11; .*--init"),
        ({"ablate": ("conv6",)}, r"fit recipe tiny\+conv6 .* its conv6.weight is missing, the recipe's 8x4x3x3"),
        ({"ablate": ("no-conv4",)}, r"its conv4.weight is 8x4x3x3, the recipe's missing"),
        ({"seed": 3}, "--seed 3: the run to resume has 0; leave --seed out"),
        ({"data_seed": 3}, "--data-seed 3: the run to resume has 0; leave --data-seed out"),
    ],
)
def test_a_run_is_not_resumed_as_another(train: Train, options: dict[str, Any], message: str) -> None:
    train(steps=1)
    with pytest.raises(UsageError, match=message):
        train(resume=True, **options)


def changed(folder: Path) -> list[dict[str, Any]]:
    return [line["changed"] for line in lines(folder, "run")]


def test_a_run_that_is_asked_for_as_it_is_changes_in_nothing(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given: dict[str, Any] = {"recipe": "tiny", "ablate": ("tanh",), "batch_size": 5, "rate": 0.02, "epochs": 2}
    undisturbed = train("undisturbed", **given)
    train(steps=1, **given)
    train(resume=True, steps=2, **given)
    resumed = train(resume=True, ablate=("tanh",), seed=0)
    assert changed(tmp_path / "run") == [{}, {}, {}]
    assert "changed" not in caplog.text
    assert resumed.state.recipe.name == "tiny+tanh"
    assert equal(weights(resumed), weights(undisturbed))


@pytest.mark.parametrize("from_file", [False, True])
def test_a_run_goes_on_with_another_recipe_and_says_what_changed(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, from_file: bool
) -> None:
    caplog.set_level("INFO")
    train(steps=3)
    caplog.clear()
    asked: dict[str, Any] = {"rate": 0.005, "batch_size": 6}
    if from_file:
        path = tmp_path / "edited.toml"
        path.write_text(to_toml(replace(TINY.times(0.005 / TINY.phase[0].rate), batch_size=6)))
        asked = {"recipe": str(path)}
    outcome = train(resume=True, **asked)
    assert changed(tmp_path / "run")[1] == {
        "recipe.batch_size": [4, 6],
        "recipe.phase[0].rate": [0.01, 0.005],
        "recipe.phase[1].rate": [0.003, 0.0015],
        "learning_rate": [0.01, 0.005],
    }
    assert [message for message in caplog.messages if message.startswith("changed")] == [
        "changed: recipe.batch_size 4 -> 6",
        "changed: recipe.phase[0].rate 0.01 -> 0.005",
        "changed: recipe.phase[1].rate 0.003 -> 0.0015",
        "changed: learning_rate 0.01 -> 0.005",
    ]
    assert "another stream" not in caplog.text
    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "step")]
    assert rates[:4] == [0.01, 0.01, 0.01, 0.005]
    assert outcome.state.step == 3 + 1 + 2 * 3, "of the 18 records 12 were done, 6 are left; then two epochs of 3 steps"


def test_the_best_epoch_is_known_whatever_the_batch_sizes_were(train: Train, tmp_path: Path) -> None:
    train(steps=2 * STEPS_PER_EPOCH)
    state = train(resume=True, batch_size=18).state
    errors = [line["val_top1_error"] for line in lines(tmp_path / "run", "epoch")]
    assert len(errors) == 3
    assert (state.best_error, state.best_epoch) == (min(errors), errors.index(min(errors)))


def test_every_record_of_the_epoch_still_comes_once_with_another_batch_size(train: Train, loader: MemoryLoader) -> None:
    asked: list[int] = []
    train(steps=2)
    loader.on_ask = lambda spec, epoch, position: (
        asked.append(position) if (spec.split, epoch) == ("train", 0) else None
    )
    train(resume=True, batch_size=7)
    assert asked == [8, 15]


def test_another_stream_in_the_midst_of_an_epoch_is_said_and_its_digest_is_not_told(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(steps=3, digests="on")
    train(resume=True, ablate=("no-noise",))
    assert "changed: recipe.phase[0].sigma 0.1 -> 0.0" in caplog.messages
    assert "the training images are of another stream from here on; their order is the same" in caplog.messages
    assert [line["digest"] is None for line in lines(tmp_path / "run", "epoch")] == [True, False, False]


def test_what_else_changed_is_said_too(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    train(resume=True, steps=2, precision="bf16", on_bad_record="stop", digests="on", threads=2)
    assert changed(tmp_path / "run")[1] == {
        "precision": ["fp32", "bf16"],
        "threads": [1, 2],
        "on_bad_record": ["replace", "stop"],
        "digests": ["off", "on"],
    }


def test_a_run_goes_on_with_its_own_number_of_threads_and_says_where_it_is_another(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(steps=1, threads=2)
    assert train(resume=True, steps=2, threads=None).state.threads == 2
    assert "sums may round differently" not in caplog.text
    assert train(resume=True, steps=3, threads=1).state.threads == 1
    assert "1 threads instead of 2: sums may round differently" in caplog.messages


def test_resume_needs_the_folder_of_the_run() -> None:
    with pytest.raises(UsageError, match="--resume needs --run"):
        launch.run(TrainOptions(resume=True, cpu=True))


def test_a_run_is_not_resumed_on_other_pictures(train: Train, loader: MemoryLoader) -> None:
    train(steps=1)
    loader.digest = b"e" * 16
    with pytest.raises(CheckpointError, match=r"was trained on dataset 6464.*the loader serves 6565"):
        train(resume=True)


def test_a_run_is_not_resumed_on_other_classes(train: Train, loader: MemoryLoader) -> None:
    train(steps=1)
    loader.classes = ("dark", "light")
    with pytest.raises(CheckpointError, match=r"has 3 classes \(dark, light, striped\), the loader's dataset 2 \("):
        train(resume=True)


def test_a_checkpoint_names_the_stream_it_goes_on_with(train: Train) -> None:
    before = checkpoint.load(train(steps=1).checkpoint).state
    last = checkpoint.load(train(resume=True).checkpoint).state
    assert before.stream == StreamSpec(crop=TINY.crop).name(b"d" * 16, named("drawn", "0" * 32))
    assert last.stream == StreamSpec(crop=TINY.crop, sigma=0.0).name(b"d" * 16, named("drawn", "0" * 32))
    check_same_stream(before, before.stream)
    check_same_stream(replace(before, stream=""), before.stream)  # of before streams had names
    with pytest.raises(CheckpointError, match=f"was reading stream {before.stream}"):
        check_same_stream(before, last.stream)


def test_a_resumed_run_may_have_more_epochs(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train()
    outcome = train(resume=True, epochs=6)
    assert outcome.state.epoch == 6
    assert "changed: recipe.epochs 3 -> 6" in caplog.messages
    assert "changed: recipe.phase[1].first_epoch 2 -> 4" in caplog.messages
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(
        r"the learning rate goes up: [\d.e-]+ from here on, instead of [\d.e-]+; --lr names another", warning
    )


def test_a_recipe_with_a_phase_more_or_less_is_told_whole(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    path = tmp_path / "edited.toml"
    path.write_text(to_toml(replace(TINY, phase=TINY.phase[:1], plateau=None)))
    train(resume=True, steps=2, recipe=str(path))
    before: dict[str, Any] = {"first_epoch": 2, "rate": 0.003, "bias_rate": None, "layer_rates": {}, "sigma": 0.0}
    told = changed(tmp_path / "run")[1]
    assert told.keys() == {"recipe.plateau", "recipe.phase[1]"}
    assert told["recipe.phase[1]"] == [before, None]


def test_a_run_is_not_both_gone_on_with_and_begun(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume continues a run, --init begins a new one"):
        train(resume=True, init=tmp_path)
