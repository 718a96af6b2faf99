"""alexnet-trainer as a process or in this one, and its steps."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S, wait_for
from trainer.cli.train_command import main
from trainer.training.metrics import FILE_NAME, read

OPTIONS = ["--cpu", "--recipe", "demo", "--width", "0.02", "--batch-size", "8", "--threads", "1", "--log-steps", "1"]


def start(*options: str | Path, cwd: Path, stderr: Any = subprocess.PIPE, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli.train_command", *map(str, options)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **more,
    )


def invoke(*options: str | Path) -> Result:
    """The command in this process, which has torch imported already."""
    return CliRunner().invoke(main, list(map(str, options)))


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """(exit code, lines of stdout, lines of stderr)"""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    return process.returncode, out.splitlines(), err.splitlines()


def steps_in(folder: Path) -> int:
    path = folder / FILE_NAME
    return sum(line["kind"] == "step" for line in read(path)) if path.exists() else 0


def steps_told(folder: Path) -> list[int]:
    return [line["step"] for line in read(folder / FILE_NAME) if line["kind"] == "step"]


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    wait_for(f"{steps} steps", lambda: steps_in(folder) >= steps or process.poll() is not None)
    assert process.poll() is None, process.communicate()
