"""tests/bench/gpu.sh, which is seldom run on dear machines, goes through to its end on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.photo_tree import make_tree
from tests.support.processes import alive

SCRIPT = ROOT / "tests/bench/gpu.sh"


SETTINGS = {"PYTHON": sys.executable, "SLACK": "100", "WIDTH": "0.05", "BATCH": "1", "BATCHES": "2", "ROUNDS": "1"}
SETTINGS |= {"PRECISIONS": "tf32", "ALGORITHMS": "repeatable", "RESUMED": "12", "LOG_STEPS": "1"}
MOST_FILES, MOST_BYTES = 8, 16 << 20


def run(photos: Path, out: Path, parts: str, **settings: str) -> "subprocess.Popen[str]":
    command: list[str | Path] = [SCRIPT, photos, out, "cpu", "4"]
    environment = os.environ | SETTINGS | settings | {"PARTS": parts, "SCRATCH": str(out.parent)}
    environment["OMP_WAIT_POLICY"] = "passive"  # several share the cores
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_its_parts_leave_their_figures_a_trace_and_a_report_in_few_files(tmp_path: Path) -> None:
    photos, out = make_tree(tmp_path / "photos", train=6, val=3), tmp_path / "out"
    for script in [
        run(photos, out, "step upload"),
        run(photos, out, "train evaluate resume report"),
    ]:  # beside each other
        told, _ = script.communicate(timeout=400)
        assert script.returncode == 0, told
    steps = (out / "step.log").read_text()
    assert "algorithms: repeatable" in steps
    assert steps.count("two halves on it ") == 1
    assert steps.count("after half a batch ") == 1
    assert steps.count("exchange exposed") == 1
    assert all(float(floors) >= 1 for floors in re.findall(r"([\d.]+) floors", steps))
    assert steps.count(" aten::") > 20
    training = (out / "train.log").read_text()
    assert "epoch 4/4" in training
    assert re.search(r"^all: [\d.]+ s of training, [\d.]+% of it waiting for data$", training, re.MULTILINE)
    assert re.search(r" 2 steps of [\d.]+ ms; ", training)
    assert "10 views" in training
    assert "24 losses until step 24 are the same to the bit, resumed at [12]" in training
    assert "Filters of conv1" in (out / "report.html").read_text()
    files = list(out.iterdir())
    assert {"metrics.jsonl", "trace.json.gz"} <= {file.name for file in files}
    assert len(files) <= MOST_FILES
    assert all(file.stat().st_size <= MOST_BYTES for file in files)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}, "data and checkpoints are gone"


def test_photos_that_are_not_there_end_it_with_their_name(tmp_path: Path) -> None:
    script = run(tmp_path / "nowhere", tmp_path / "out", "train")
    told, _ = script.communicate(timeout=200)
    assert script.returncode != 0
    assert "nowhere does not exist" in told
    assert "alexnet-loader" not in told


def test_a_part_that_is_out_of_time_is_stopped_and_named(tmp_path: Path) -> None:
    script = run(tmp_path / "nowhere", tmp_path / "out", "train tests", SLACK="0")
    told, _ = script.communicate(timeout=200)
    assert script.returncode != 0
    assert told.count("out of time") == 2


UNRULY = f"""#!/usr/bin/env bash
case "$*" in
    *step.py*repeatable*) echo figures ;;
    *step.py*slow*) exec sleep 600 ;;
    *step.py*) kill -9 $$ ;;
    *"-m pytest"*) sleep 600 & echo $! > "$0.left"; exit 3 ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def unruly(tmp_path: Path) -> str:
    """A Python that computes no step, is killed, leaves a process behind, or hangs, as asked for."""
    python = tmp_path / "python"
    python.write_text(UNRULY)
    python.chmod(0o755)
    return str(python)


def test_a_part_that_fails_or_is_killed_keeps_no_other_from_running(tmp_path: Path, unruly: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    for name in ("summary.txt", "step.log", "tests.log"):
        (full / name).symlink_to("/dev/full")
    for out in (full, tmp_path / "out"):
        script = run(tmp_path / "nowhere", out, "step tests", PYTHON=unruly, ALGORITHMS="any repeatable")
        told, _ = script.communicate(timeout=200)  # which ends with the last process that could write
        assert script.returncode == 1
        for ending in ("tf32, any: killed", "tf32, repeatable: done", "tests: failed (3)"):
            assert ending in told
        assert not alive(int((tmp_path / "python.left").read_text()))
    assert "figures" in (tmp_path / "out/step.log").read_text()
    assert (tmp_path / "out/summary.txt").read_text() in told
    assert {path.name for path in tmp_path.iterdir()} == {"full", "out", "python", "python.left"}, "data are gone"


def test_a_script_that_is_stopped_keeps_what_there_is(tmp_path: Path, unruly: str) -> None:
    out = tmp_path / "out"
    script = run(tmp_path / "nowhere", out, "step", PYTHON=unruly, ALGORITHMS="repeatable slow")
    assert script.stdout is not None
    for line in script.stdout:
        if "slow" in line:
            break
    script.terminate()
    script.communicate(timeout=200)  # which ends with the last process that could write
    assert script.returncode == 128 + signal.SIGTERM
    assert (out / "summary.txt").read_text().splitlines()[-1] == "step tf32, slow: stopped"
    assert "figures" in (out / "step.log").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "python"}


def test_losses_that_are_not_the_whole_run_s_are_found(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {
        "whole": [2.0, 1.5, 1.25],
        "same": [2.0, 1.5],
        "other": [2.0, 1.5000001],
        "none": [],
    }
    for name, values in losses.items():
        (tmp_path / name).mkdir()
        lines = [{"kind": "step", "step": step, "loss": loss} for step, loss in enumerate(values)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def same(name: str) -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [
            sys.executable,
            ROOT / "tests/bench/gpu_runs.py",
            "same",
            tmp_path / "whole",
            tmp_path / name,
        ]
        return subprocess.run(command, capture_output=True, text=True)

    assert same("same").returncode == 0
    assert "1 of 2 losses differ, first at step 1" in same("other").stderr
    assert "nothing was compared" in same("none").stderr
