"""Which runs are gone on with, and as what."""

from typing import Any

import pytest

from common.errors import CheckpointError, UsageError
from common.spec import StreamSpec
from tests.memory_loader import MemoryLoader
from tests.tiny_run import TINY, Train, equal, weights
from trainer import checkpoint, run
from trainer.resume import check_same_stream


def test_a_folder_with_a_run_is_not_written_over(train: Train) -> None:
    train(steps=1)
    with pytest.raises(UsageError, match="already holds a run; --resume"):
        train(steps=1)


def test_a_run_that_is_done_stays_as_it_is(train: Train) -> None:
    done = train()
    again = train(resume=True)
    assert equal(weights(again), weights(done))
    assert "done already" in run.last_line(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "source"}, "--recipe source: the run to resume has tiny"),
        ({"width": 0.5}, r"--width 0.5: the run to resume has 0\.02"),
        ({"batch_size": 8}, "--batch-size 8: the run to resume has 4"),
        ({"rate": 0.5}, r"--lr 0.5: the run to resume has 0\.01"),
        ({"seed": 3}, "--seed 3: the run to resume has 0"),
    ],
)
def test_a_run_is_not_resumed_as_another(train: Train, options: dict[str, Any], message: str) -> None:
    train(steps=1)
    with pytest.raises(UsageError, match=message):
        train(resume=True, **options)
    train(resume=True, recipe="tiny", width=0.02, batch_size=4, rate=0.01, seed=0, steps=2)


def test_a_run_is_not_resumed_on_other_pictures(train: Train, loader: MemoryLoader) -> None:
    train(steps=1)
    loader.digest = b"e" * 16
    with pytest.raises(CheckpointError, match=r"was trained on data set 6464.*the loader serves 6565"):
        train(resume=True)


def test_a_run_is_not_resumed_with_another_decoder(train: Train, loader: MemoryLoader) -> None:
    train(steps=1)
    loader.decoder = "another"
    with pytest.raises(CheckpointError, match="as drawn decodes them, the loader has another"):
        train(resume=True)


def test_a_checkpoint_names_the_stream_it_goes_on_with(train: Train) -> None:
    before = checkpoint.load(train(steps=1).checkpoint).state
    last = checkpoint.load(train(resume=True).checkpoint).state
    assert before.stream == StreamSpec(crop=TINY.crop).name(b"d" * 16, "drawn")
    assert last.stream == StreamSpec(crop=TINY.crop, sigma=0.0).name(b"d" * 16, "drawn")
    check_same_stream(before, before.stream)
    with pytest.raises(CheckpointError, match=f"was reading stream {before.stream}"):
        check_same_stream(before, last.stream)


def test_a_resumed_run_may_have_more_epochs(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train()
    outcome = train(resume=True, epochs=4)
    assert outcome.state.epoch == 4
    assert "4 epochs instead of 3" in caplog.text
