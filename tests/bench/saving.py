"""Training on the CPU with checkpoints beside training without.

    python tests/bench/saving.py [--data PHOTOS] [--width 1] [--batch 128] [--every 10] [--rounds 5] [--folder DIR]

One run of alexnet-trainer, fed by a loader service; PHOTOS is what alexnet-pack takes, else images are drawn. Rounds
of --every seconds, as many steps as the warm-up makes in them, at least 3, take turns:

    without    no checkpoint
    thread     a checkpoint when it begins, written by the thread while the steps are made
    waiting    the same, but training waits until it is on the disk

Each round ends once its checkpoint has its name. DIR, on the disk to be measured, holds the checkpoints; else a
temporary folder. Figures are medians of the rounds (lowest to highest); throughput is the time of the round without, of
the one beside it with.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from tests.bench import photos
from tests.support.processes import LoaderProcess
from trainer.training import launch
from trainer.training.loop import Trainer
from trainer.training.outcome import Outcome
from trainer.training.train_options import TrainOptions

WARM_UP_STEPS, FEWEST_STEPS = 5, 3


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def figures(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Measured(Trainer):
    """Trains in rounds instead of epochs."""

    every_s, rounds = 0.0, 0  # set by main

    def train(self) -> Outcome:
        kinds: dict[str, Callable[[], object]] = {
            "without": lambda: None,
            "thread": self.save_soon,
            "waiting": self.save,
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        still_s: dict[str, list[float]] = {kind: [] for kind in kinds}
        steps_s = [self._timed_step() for _ in range(WARM_UP_STEPS)]
        steps = max(FEWEST_STEPS, math.ceil(self.every_s / statistics.median(steps_s)))
        path = self.save()
        size_mb = path.stat().st_size / 1e6
        say(f"checkpoints of {size_mb:.0f} MB, {steps} steps a round, {self.rounds} rounds")
        with self._saving:
            for turn in range(self.rounds):
                for kind in [*kinds, *kinds][turn % 3 : turn % 3 + 3]:
                    started_s = time.perf_counter()
                    kinds[kind]()
                    still_s[kind].append(time.perf_counter() - started_s)
                    for _ in range(steps):
                        self.train_step()
                    self._settle()
                    seconds[kind].append(time.perf_counter() - started_s)
        say(f"without    {figures(seconds['without'], 2)} s a round")
        for kind in ("thread", "waiting"):
            throughputs = [without / each for without, each in zip(seconds["without"], seconds[kind], strict=True)]
            still_ms = figures([1000 * each for each in still_s[kind]], 0)
            took = f"{kind:10s} {figures(seconds[kind], 2)} s"
            say(f"{took}; throughput {figures(throughputs, 3)}; still {still_ms} ms")
        return Outcome(self.state, None, path)

    def _timed_step(self) -> float:
        started_s = time.perf_counter()
        self.train_step()
        return time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between checkpoints; longer than a save")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--net", choices=["halves", "one-device"], default="halves")
    parser.add_argument("--folder", type=Path, help="of the checkpoints, which are removed")
    given = parser.parse_args()
    Measured.every_s, Measured.rounds = given.every, given.rounds
    launch.Trainer = Measured  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=given.folder) as run:
        data = photos.packed_records(given.data, Path(name), 4 * given.batch)
        with LoaderProcess(data, Path(name), given.workers) as service:
            launch.run(
                TrainOptions(
                    cpu=True, recipe="source", width=given.width, batch_size=given.batch, net=given.net,
                    threads=given.threads, loaders=(service.endpoint,), folder=Path(run),
                )
            )  # fmt: skip


if __name__ == "__main__":
    main()
