"""deploy/run_cluster.sh as a process, and the processes of its run."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S, children, command_line, wait_for

SCRIPT = ROOT / "deploy" / "run_cluster.sh"
TRIAL = ["--", "--width", "0.05", "--batch-size", "16", "--threads", "1", "--log-steps", "1"]


def small_data(folder: Path) -> Path:
    """A packed demo dataset of 48 training images: three steps of TRIAL an epoch."""
    pack = [str(Path(sys.executable).parent / "alexnet-pack"), "--demo", "--demo-train", "48", "--demo-val", "16"]
    subprocess.run([*pack, str(folder / "data")], check=True, capture_output=True)
    return folder / "data"


class Cluster:
    """A run_cluster.sh in a process group of its own, as from a terminal."""

    def __init__(self, run: Path, *options: str | Path) -> None:
        self.run = run
        self.output = run.with_suffix(".output")
        default_signals = ["env", "--default-signal=INT,TERM,HUP"]  # a test run in the background has SIGINT ignored
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*default_signals, SCRIPT, "--run", run, "--workers", "2", "--cpu", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def train(self) -> list[int]:
        """Wait for the first training steps; returns every process of the loader and the trainer."""
        wait_until(lambda: self.steps() or self.process.poll() is not None)
        assert self.process.poll() is None, self.output.read_text()
        return family(self.run)

    def find(self, command: str) -> int:
        """A process that the script started: each leads a session."""
        pattern = f"/{command}\0.*{self.run}[/\0]"
        [pid] = [pid for pid in family(self.run) if session(pid) == pid and re.search(pattern, command_line(pid))]
        return pid

    def service(self) -> int:
        return wait_for("the service", lambda: next(filter(is_alive, children(self.find("alexnet-loader"))), None))

    def kill_service(self) -> bool:
        """False if the loader has ended with the run."""
        try:
            os.kill(self.service(), signal.SIGKILL)
        except (ValueError, ProcessLookupError):
            return False
        return True

    def steps(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_text().count('"kind": "step"') if metrics.exists() else 0

    def end(self) -> tuple[int, str]:
        """Exit code and last line."""
        code = self.process.wait(timeout=PATIENCE_S)
        return code, self.output.read_text().splitlines()[-1]


def wait_until(condition: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s"
        time.sleep(0.02)


def family(run: Path) -> list[int]:
    """Loader and trainer of a run, by its folder in their command lines, and all in their sessions."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    heads = {pid for pid in pids if f"{run}\0" in command_line(pid) or f"{run}/" in command_line(pid)}
    heads = {pid for pid in heads if str(SCRIPT) not in command_line(pid)}
    return sorted(pid for pid in pids if is_alive(pid) and (pid in heads or session(pid) in heads))


def session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def final_weights(run: Path) -> dict[str, bytes]:
    """Bits of each parameter in the newest checkpoint."""
    from trainer.checkpoints import checkpoint

    weights = checkpoint.load(checkpoint.newest(run)).weights
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
