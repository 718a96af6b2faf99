"""tests/bench/gpu.sh, which is seldom run on dear machines, goes through to its end on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.photo_tree import make_tree

SCRIPT = ROOT / "tests/bench/gpu.sh"


def run(photos: Path, out: Path, parts: str) -> "subprocess.Popen[str]":
    settings = {"PYTHON": sys.executable, "PARTS": parts, "WIDTH": "0.05", "BATCHES": "1", "ROUNDS": "1"}
    settings["ALGORITHMS"] = "repeatable"
    command: list[str | Path] = [SCRIPT, photos, out, "cpu", "13"]
    environment = os.environ | settings | {"OMP_WAIT_POLICY": "passive"}  # several share the cores
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_its_steps_and_its_training_leave_their_figures_a_trace_and_a_report(tmp_path: Path) -> None:
    photos, out = make_tree(tmp_path / "photos", train=6, val=3), tmp_path / "out"
    for script in [run(photos, out, "step upload"), run(photos, out, "train")]:  # beside each other
        told, _ = script.communicate(timeout=200)
        assert script.returncode == 0, told
    steps = (out / "step.log").read_text()
    assert steps.count("two halves on it") == 2
    assert steps.count("exchange exposed") == 2
    assert all(float(floors) >= 1 for floors in re.findall(r"([\d.]+) floors", steps))
    training = (out / "train.log").read_text()
    assert "3 steps of" in training
    assert "waiting for data" in training
    assert "epoch 13/13" in training
    assert (out / "cifar10" / "trace.json").exists()
    assert "Filters of conv1" in (out / "report.html").read_text()


def test_photos_that_are_not_there_end_it_with_their_name(tmp_path: Path) -> None:
    script = run(tmp_path / "nowhere", tmp_path / "out", "train")
    told, _ = script.communicate(timeout=200)
    assert script.returncode != 0
    assert "nowhere does not exist" in told
    assert "alexnet-loader" not in told
