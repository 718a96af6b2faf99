"""A rank of two is killed, or stopped, again and again at random moments of training, beside an undisturbed run.

Run: python tests/bench/killed_rank.py [--times 20] [--signal KILL|STOP] [--rank-timeout 8] [--seed 0]

Prints the seconds from the signal to the next logged step, median and largest; exit code 1 if weights or metrics
differ. A rank that stops is noticed after --rank-timeout seconds, and killed after 30 more.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.processes import LoaderProcess, children, wait_for
from tests.support.tiny_run import equal, lines, without_times
from trainer.checkpoints import checkpoint

BIN = Path(sys.executable).parent
RECORDS, BATCH, BETWEEN = 960, 32, 12  # steps between two kills, at most


class Run:
    def __init__(self, folder: Path, loader: LoaderProcess, epochs: int, *options: str) -> None:
        self.folder = folder
        command: list[str | Path] = [
            BIN / "alexnet-trainer",
            "--cpu",
            "--recipe",
            "demo",
            "--width",
            "0.03",
            "--batch-size",
            str(BATCH),
        ]
        command += ["--threads", "1", "--parts", "2", "--epochs", str(epochs), "--checkpoint-minutes", "0.01"]
        command += ["--log-steps", "1", "--loader", loader.endpoint, "--run", folder, *options]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return lines(self.folder, kind) if (self.folder / "metrics.jsonl").exists() else []

    def step(self) -> int:
        """The last step in metrics.jsonl; 0 before the first since the newest start."""
        starts, steps = self.lines("run"), self.lines("step")
        told = steps[-1]["step"] if steps else 0
        return told if starts and told > starts[-1]["step"] else 0

    def wait_for_step(self, step: int) -> None:
        wait_for(f"step {step}", lambda: self.step() >= step or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise SystemExit(f"the run has ended: {self.log.read_text()[-2000:]}")

    def strike(self, number: signal.Signals, rng: random.Random) -> float:
        """Signal one rank; return the seconds until a step of the next start is logged."""
        starts = len(self.lines("run"))
        os.kill(rng.choice(wait_for("ranks", lambda: children(self.process.pid))), number)
        began_s = time.monotonic()
        wait_for("the restart", lambda: len(self.lines("run")) > starts or self.process.poll() is not None)
        self.wait_for_step(1)
        return time.monotonic() - began_s

    def finish(self) -> None:
        if self.process.wait() != 0:
            raise SystemExit(f"the run failed: {self.log.read_text()[-2000:]}")

    def equals(self, other: "Run") -> bool:
        newest = [checkpoint.load(checkpoint.newest(run.folder)) for run in (self, other)]
        same = all(equal(*(getattr(each, kind) for each in newest)) for kind in ("weights", "velocities"))
        told = ([without_times(run.lines(kind)) for kind in ("step", "epoch")] for run in (self, other))
        return same and next(told) == next(told)


def strike_again_and_again(
    folder: Path, times: int, number: signal.Signals, rank_timeout_s: int, rng: random.Random
) -> bool:
    packing: list[str | Path] = ["--demo", folder / "data", "--demo-train", str(RECORDS), "--demo-val", "40"]
    subprocess.run([BIN / "alexnet-pack", *packing], check=True, capture_output=True)
    epochs = 1 + times * BETWEEN // (RECORDS // BATCH)
    with LoaderProcess(folder / "data", folder) as loader:
        undisturbed = Run(folder / "undisturbed", loader, epochs)
        undisturbed.finish()
        timeout = ["--rank-timeout", str(rank_timeout_s)] if number == signal.SIGSTOP else []
        struck = Run(folder / "struck", loader, epochs, "--ranks", "2", "--restarts", str(times), *timeout)
        seconds = list[float]()
        for strike in range(times):
            struck.wait_for_step(max(1, struck.step()) + rng.randint(0, BETWEEN // 2))
            time.sleep(rng.uniform(0, 0.3))
            seconds.append(struck.strike(number, rng))
            sys.stdout.write(f"  {strike + 1} of {times}: back at step {struck.step()} after {seconds[-1]:.1f} s\n")
            sys.stdout.flush()
        struck.finish()
        same = struck.equals(undisturbed)
    sys.stdout.write(
        f"a rank of two got {number.name} {times} times: a step again after {statistics.median(seconds):.1f} s, at most"
        f" {max(seconds):.1f} s; weights and metrics {'equal' if same else 'DIFFER'}, bit for bit\n"
    )
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    parser.add_argument("--rank-timeout", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        number = signal.Signals[f"SIG{given.signal}"]
        if not strike_again_and_again(Path(folder), given.times, number, given.rank_timeout, random.Random(given.seed)):
            sys.exit(1)


if __name__ == "__main__":
    main()
