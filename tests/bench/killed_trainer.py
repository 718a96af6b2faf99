"""A trainer killed again and again, often during a save, beside an undisturbed one."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from loader.cli.pack_command import main as pack
from tests.support.dying import DEATHS, MOMENTS
from tests.support.processes import LoaderProcess, wait_for
from tests.support.tiny_run import lines, without_times
from trainer.checkpoints import checkpoint


class Training:
    """Runs of `alexnet-trainer` in one folder, each with loaders of its own."""

    def __init__(self, data: Path, folder: Path, epochs: int) -> None:
        self.folder, self._data, self._epochs = folder, data, epochs
        folder.mkdir()

    def start(self, stack: ExitStack, workers: int, hosts: int, program: Sequence[str]) -> "subprocess.Popen[str]":
        services = [stack.enter_context(LoaderProcess(self._data, self.folder, workers)) for _ in range(hosts)]
        options = [
            "--cpu",
            "--threads",
            "1",
            "--checkpoint-minutes",
            "0",
            "--log-steps",
            "1",
            "--digest",
            "on",
            "--run",
            str(self.folder / "run"),
        ]
        for service in services:
            options += ["--loader", service.endpoint]
        new = ["--recipe", "demo", "--width", "0.03", "--batch-size", "32", "--epochs", str(self._epochs)]
        options += ["--resume"] if self.checkpoints() else new
        return subprocess.Popen(
            [sys.executable, "-m", *program, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "run").glob("checkpoint-*.safetensors"))

    def finish(self, workers: int, hosts: int) -> None:
        with ExitStack() as stack:
            process = self.start(stack, workers, hosts, ["trainer.cli.train_command"])
            _, told = process.communicate()
            if process.returncode != 0:
                raise SystemExit(f"the trainer failed: {told[-2000:]}")

    def kill(self, rng: random.Random, workers: int, hosts: int, moment: str | None) -> str:
        """Train until there is a new checkpoint, and a random while longer; then kill.

        Returns the moment of death, if known.

        moment   of a save, at which it is to die (tests/support/dying.py); if that does not come, it is killed too
        """
        before = self.checkpoints()
        program = (
            ["tests.support.dying", moment, str(1 if moment in ("link", "best") else rng.randint(1, 4))]
            if moment
            else ["trainer.cli.train_command"]
        )
        with ExitStack() as stack:
            process = self.start(stack, workers, hosts, program)
            wait_for("a checkpoint", lambda: self.checkpoints() != before or process.poll() is not None)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=rng.uniform(0, 1.5) if moment is None else 30.0)
            died = moment if process.poll() in DEATHS else None
            if process.poll() is not None and died is None:
                raise SystemExit(f"the run ended before it was killed often enough: {process.communicate()[1]}")
            process.kill()
            process.communicate()
        return died or ("writing" if any((self.folder / "run").glob("*.partial")) else "other")

    def history(self) -> list[dict[str, Any]]:
        """Steps and epochs of metrics.jsonl, without times."""
        return [line for kind in ("step", "epoch") for line in without_times(lines(self.folder / "run", kind))]


def kill_again_and_again(folder: Path, times: int, epochs: int, rng: random.Random, say: Callable[[str], None]) -> bool:
    """Return True if a run that was killed and resumed equals an undisturbed one."""
    data = folder / "data"
    options = ["--demo", str(data), "--demo-train", "1000", "--demo-val", "100", "--jobs", "2"]
    assert CliRunner().invoke(pack, options).exit_code == 0
    runs = [Training(data, folder / name, epochs) for name in ("undisturbed", "killed")]
    runs[0].finish(workers=2, hosts=1)
    steps, moments = list[int](), Counter[str]()
    for number in range(times):
        moment = [None, *MOMENTS][number % (1 + len(MOMENTS))]
        moments[died := runs[1].kill(rng, 1 + number % 3, 1 + number % 2, moment)] += 1
        steps.append(checkpoint.load(checkpoint.newest(runs[1].folder / "run")).state.step)
        say(f"  killed ({died}); the last checkpoint is of step {steps[-1]}")
    runs[1].finish(workers=3, hosts=2)
    one, other = (checkpoint.load(checkpoint.newest(run.folder / "run")) for run in runs)
    same_history = runs[0].history() == runs[1].history()
    equal = one.state == other.state and all(
        tensors[0][name].equal(tensors[1][name])
        for tensors in ((one.weights, other.weights), (one.velocities, other.velocities))
        for name in tensors[0]
    )
    say(
        f"trainer killed {times} times, in steps {steps[0]} to {steps[-1]} of {one.state.step},"
        f" {times - moments['other']} of them while saving"
        f" ({', '.join(f'{moment} {often}' for moment, often in moments.items() if moment != 'other')}), resumed with"
        f" 1 to 3 workers on 1 or 2 hosts: weights, velocities and state {'equal' if equal else 'DIFFER'}, metrics"
        f" {'equal' if same_history else 'DIFFER'}, bit for bit"
    )
    return equal and same_history
