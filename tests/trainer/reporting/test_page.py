"""Pages without a loader: whole, of one file, and with what is missing said."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.pages import ReadPage
from tests.support.trained_nets import SMALL, save_net
from trainer.cli.report_command import main
from trainer.reporting.colours import principal
from trainer.training.metrics import FILE_NAME


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def page_of(out: Path, *arguments: str | Path) -> ReadPage:
    ended = report(*arguments, "--out", out)
    assert ended.exit_code == 0, ended.output
    page = ReadPage(out)
    assert page.faults == []
    return page


def write_run(folder: Path, *kinds: str, epochs: int = 2, error: float | None = 0.25) -> Path:
    """A run's folder with lines of `kinds`, no checkpoint."""
    lines: list[dict[str, Any]] = []
    errors: dict[str, float | None]
    if "run" in kinds:
        dataset = {"train_records": 32, "val_records": 8, "classes": 2, "digest": "ab"}
        recipe = {"name": "<b>mine</b>", "batch_size": 16, "epochs": 5, "width": 1.0}
        lines.append({"kind": "run", "step": 0, "epoch": 0, "recipe": recipe, "dataset": dataset, "seed": 7})
    waits = {"wire": 0.01, "decode": 0.02}
    common = {"learning_rate": 0.01, "images_per_s": 50.0, "wait_share": 0.03, "waits": waits}
    for epoch in range(epochs):
        for half in (1, 2) if "step" in kinds else ():
            errors = {"train_error": 0.5 / (2 * epoch + half), "loss": 1.0}
            lines.append({"kind": "step", "step": 2 * epoch + half, "epoch": epoch} | errors | common)
        if "epoch" in kinds:
            errors = {"train_loss": 1.0, "train_error": 0.5, "val_loss": error and 1.5, "val_top1_error": error}
            lines.append({"kind": "epoch", "step": 2 * epoch + 2, "epoch": epoch} | errors | common)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_trained_run_has_every_part_that_needs_no_images_and_says_which_do(train: Any, tmp_path: Path) -> None:
    train("run", epochs=1)
    page = page_of(tmp_path / "r.html", tmp_path / "run", "--figures", tmp_path / "figures")
    assert {"error", "loss", "learning-rate", "throughput", "filters-1", "left-out"} <= set(page.ids)
    assert "Left out Answers, nearest images, mistakes and confusions; augmentations" in page.text
    assert "--loader ENDPOINT, or --data DIR" in page.text
    assert all(each in page.text for each in ("Dataset 18 training images", "width = 0.02", "torch", "1 of 1"))
    assert re.search(r"\d+ filters of conv1, 11 x 11 pixels each, those of half 0 above", " ".join(page.images))
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"error.svg", "loss.svg", "filters.png"} <= figures
    assert "currentColor" not in (tmp_path / "figures" / "error.svg").read_text()


def test_several_runs_lie_over_each_other_whatever_they_are(tmp_path: Path) -> None:
    """Names are text; a run without validation, one without a finished epoch, one that logged nothing yet."""
    runs = [
        write_run(tmp_path / "<script>alert(1)</script>", "run", "step", "epoch"),
        write_run(tmp_path / "_$x^2$ \N{GREEK SMALL LETTER ALPHA}", "run", "step", "epoch", error=None),
        write_run(tmp_path / "early", "run", "step", epochs=1),
        write_run(tmp_path / "empty"),
    ]
    page = page_of(tmp_path / "r.html", *runs, "--figures", tmp_path / "figures")
    assert "<script>alert(1)</script>" in page.text
    assert "<script>" not in page.source
    assert "<b>mine</b>" in page.text
    assert {"stalls-1", "stalls-2", "stalls-3"} <= set(page.ids)
    assert "stalls-4" not in page.ids
    assert page.text.count("holds no checkpoint") == len(runs)
    assert "25 % training error after" in page.text
    assert "1.00 epochs" in page.text
    assert "_$x^2$".lstrip("_") in (tmp_path / "figures" / "error.svg").read_text()


def test_a_run_that_logged_nothing_has_a_page_that_says_so(tmp_path: Path) -> None:
    assert "No step is logged yet." in page_of(tmp_path / "r.html", write_run(tmp_path / "run")).text


def test_damaged_lines_and_a_damaged_checkpoint_are_told_and_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "run", "step", "epoch")
    with (run / FILE_NAME).open("a") as file:
        file.write("{torn}\n" * 3)
    save_net(run, ("cat", "dog"), None, SMALL).write_bytes(b"no checkpoint")
    page = page_of(tmp_path / "r.html", run)
    assert "Damaged lines of metrics.jsonl 3" in page.text
    assert "Filters of run:" in page.text
    assert "checkpoint-00000001.safetensors" in page.text


@pytest.mark.parametrize("out", ["missing/r.html", "."])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path, out: str) -> None:
    run = write_run(tmp_path / "run", "run", "step")
    ended = report(run, "--out", tmp_path / out)
    assert ended.exit_code == 2
    assert "cannot be written" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_stdout_takes_the_page_alone(tmp_path: Path) -> None:
    ended = report(write_run(tmp_path / "run", "run", "step"), "--out", "-")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("<!DOCTYPE html>")
    assert ended.stdout.endswith("</html>")


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "run")
    ended = report(run, tmp_path / "run" / ".." / "run")
    assert (ended.exit_code, "twice" in ended.stderr) == (2, True)


def test_components_are_those_of_the_covariance_the_largest_first() -> None:
    pixels = np.random.default_rng(0).normal(size=(5000, 3)) * (5, 20, 1) + 120
    first, second, third = principal(pixels.mean(axis=0), np.cov(pixels.T))
    assert [first.deviation, second.deviation, third.deviation] == pytest.approx([20, 5, 1], rel=0.05)
    assert first.direction[1] > 0.99
    assert [len(set(each.swatches)) for each in (first, second, third)] == [5, 5, 5]
