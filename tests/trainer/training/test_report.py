"""Lines that a person reads during a run."""

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from common.cli.progress import ProgressLine
from common.client.stream_sessions import Loaders
from common.client.waits import Waits
from common.spec import StreamSpec
from tests.support.checkpoints import STATE
from trainer.checkpoints.state import State, Tally, from_json, to_json
from trainer.evaluation.validation import Evaluation
from trainer.recipes.named import DEMO
from trainer.training.metrics import FILE_NAME, Metrics, read
from trainer.training.report import Now, Plan, Report
from trainer.training.schedule import Outlook

NOW = Now(
    epoch=2,
    epochs=12,
    step_of_epoch=5,
    steps_per_epoch=63,
    images_per_s=1234.5,
    loss=1.5,
    error=0.5,
    wait_share=0.25,
    eta_s=200.0,
)


def test_the_line_says_where_training_stands() -> None:
    line = NOW.line()
    assert line == (
        "epoch 3/12  step 5/63  1,234 images/s  loss 1.500  error 50.0 %  waiting for data 25.0 %  ETA 3m20s"
    )


def test_a_tally_comes_back_from_a_checkpoint_with_every_wait() -> None:
    tally = Tally(8, 2.5, 0.5, 10.0, Waits(no_loader=1, decode=3_000_000, wire=5), 2, 4)
    written = to_json(replace(STATE, tally=tally))
    assert from_json(written).tally == tally
    older = written.replace(', "came_decoded": 4', "")
    assert older != written
    assert from_json(older).tally == replace(tally, came_decoded=0)


def test_the_shares_of_the_reasons_add_up_to_the_share_of_the_waits() -> None:
    earlier = Tally(seconds=10.0, waits=Waits(read=1_000_000, decode=2_000_000))
    lately = Tally(seconds=30.0, waits=Waits(read=3_000_000, decode=5_000_000, wire=5_000_000)).since(earlier)
    assert lately.wait_shares == pytest.approx(
        dict.fromkeys(asdict(Waits()), 0.0) | {"read": 0.1, "decode": 0.15, "wire": 0.25}
    )
    assert lately.wait_share == sum(lately.wait_shares.values())
    assert Tally().wait_share == 0


def told_after_epoch_2(tmp_path: Path, plan: Plan, **state: Any) -> list[str]:
    """Lines of a run whose second epoch ended at 10 images/s, with a second of validation."""
    state = {"step": 10, "best_error": 0.25, "best_epoch": 0} | state
    now = State(epoch=1, first=20, seed=0, recipe=DEMO, dataset="", class_names=(), threads=1, **state)
    tally, outlook = Tally(images=20, seconds=2.0, waits=Waits(decode=1_000_000)), Outlook(0.01, None, None)
    screen = io.StringIO()
    with Metrics(tmp_path) as metrics, ProgressLine(screen) as progress:
        report = Report(metrics, progress, plan, every_steps=1)
        report.epoch(now, StreamSpec(), 0.01, tally, Evaluation(0.5, 0.1, 1.0, 8), 1.0)
        report.course(now, tally, 0.01, outlook, Loaders(hosts=1, workers=1, cores=4, by_socket=0))
    crowded = "  other programs"  # which this machine may be just now
    return [line for line in screen.getvalue().splitlines()[1:] if not line.startswith(crowded)]


def test_an_epoch_ends_with_how_training_goes_and_what_would_help(tmp_path: Path) -> None:
    course, waits = told_after_epoch_2(tmp_path, Plan(epochs=4, records=20, batch_size=4))
    assert course == (
        "  no lower validation error for 1 epoch (lowest 25.0 %, epoch 1); learning rate 0.01; about 6s left"
    )
    assert waits.startswith("  waited 50.0 % of the time for data: decoding 50.0 %; ")  # the rest: test_summary.py


def test_an_epoch_s_line_tells_what_share_of_the_images_was_served_decoded(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Metrics(tmp_path) as metrics, ProgressLine(screen) as progress:
        report, now = Report(metrics, progress, Plan(2, 20, 4), every_steps=1), replace(STATE, tally=None)
        for came_decoded in (0, 15):
            tally = Tally(images=20, seconds=2.0, came_decoded=came_decoded)
            report.epoch(now, StreamSpec(), 0.01, tally, None, 1.0)
    first, second = screen.getvalue().splitlines()
    assert "decoded" not in first
    assert ", 75.0 % of images served decoded" in second
    assert [line["decoded_share"] for line in read(tmp_path / FILE_NAME)] == [0, 0.75]


def test_what_a_last_step_cuts_off_is_not_left(tmp_path: Path) -> None:
    course, _ = told_after_epoch_2(tmp_path, Plan(4, 20, 4, last_step=15), best_epoch=1)
    assert course == "  the lowest validation error so far; learning rate 0.01; about 2s left"
    course, _ = told_after_epoch_2(tmp_path, Plan(4, 20, 4, last_step=10), best_epoch=1)
    assert course == "  the lowest validation error so far"


def test_the_last_epoch_has_nothing_left(tmp_path: Path) -> None:
    course, _ = told_after_epoch_2(tmp_path, Plan(2, 20, 4), best_epoch=1)
    assert course == "  the lowest validation error so far"


def test_without_validation_there_is_no_lowest_error(tmp_path: Path) -> None:
    course, _ = told_after_epoch_2(tmp_path, Plan(4, 20, 4), best_error=None, best_epoch=None)
    assert course == "  learning rate 0.01; about 6s left"
