"""Seconds that the loss of a rank costs, and that it costs nothing else.

    python tests/bench/killed_ranks.py [--ranks 2] [--kills 20] [--folder DIR]

A run of `alexnet-trainer --ranks` on the CPU loses a rank to kill -9, at random moments, again and again, each
time beyond the step that it had come to before. A figure is the time from the kill to the first step that is new; in it
are the imports of all ranks, and the steps since the last checkpoint, which are written as fast as the disk takes them.
The weights are compared to those of a run that nobody disturbs.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from click.testing import CliRunner

from loader.cli.pack_command import main as pack
from tests.support.processes import LoaderProcess, children, wait_for
from tests.support.tiny_run import lines
from trainer.checkpoints import checkpoint


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def start(loader: LoaderProcess, run: Path, ranks: int, kills: int) -> "subprocess.Popen[bytes]":
    """A run long enough to be killed so often."""
    options = f"--cpu --threads 1 --recipe demo --width 0.05 --batch-size 8 --epochs {4 + 2 * kills}"
    more = f"--checkpoint-minutes 0 --log-steps 1 --ranks {ranks} --restarts {kills}"
    command = [sys.executable, "-m", "trainer.cli.train_command", *options.split(), *more.split()]
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen([*command, "--run", str(run), "--loader", loader.endpoint], stdout=log, stderr=log)


def last_step(run: Path) -> int:
    return max((line["step"] for line in lines(run, "step")), default=0) if (run / "metrics.jsonl").exists() else 0


def ranks_of(process: "subprocess.Popen[bytes]") -> list[int]:
    return [child for child in children(process.pid) if b"\0RANK=" in Path(f"/proc/{child}/environ").read_bytes()]


def back_after_s(process: "subprocess.Popen[bytes]", run: Path, draws: random.Random) -> float:
    """Kill a rank some steps from now; wait for a step beyond those that were made."""
    kill_at = last_step(run) + draws.randint(2, 20)

    def beyond(step: int) -> bool:
        if process.poll() is not None:
            raise SystemExit(f"the run ended: {run.parent / f'{run.name}.log'}")
        return last_step(run) > step

    wait_for("steps", lambda: beyond(kill_at))
    time.sleep(draws.uniform(0, 0.2))  # anywhere in a step
    victim = draws.choice(ranks_of(process))
    subprocess.run(["kill", "-9", str(victim)], check=True)
    killed_s, made = time.monotonic(), last_step(run)
    wait_for("a new step", lambda: beyond(made))
    return time.monotonic() - killed_s


def compare(folder: Path, ranks: int, kills: int) -> bool:
    data, draws = folder / "data", random.Random(0)
    packed = CliRunner().invoke(pack, ["--demo", str(data), "--demo-train", "200", "--demo-val", "20"])
    if packed.exit_code != 0:
        raise SystemExit(packed.output)
    with LoaderProcess(data, folder) as loader, ExitStack() as stack:
        runs = [folder / "killed", folder / "undisturbed"]
        process = start(loader, runs[0], ranks, kills)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        seconds = []
        for number in range(kills):
            seconds.append(back_after_s(process, runs[0], draws))
            say(f"{number + 1}: back at work after {seconds[-1]:.1f} s, at step {last_step(runs[0])}")
        ended = process.wait(), start(loader, runs[1], ranks, kills).wait()
    if any(ended):
        raise SystemExit(f"exit codes {ended}: see {folder}/*.log")
    one, other = (checkpoint.load(checkpoint.newest(run)) for run in runs)
    same = all(one.weights[name].equal(other.weights[name]) for name in other.weights)
    say(f"{kills} kills: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f});")
    say(f"weights {'equal' if same else 'DIFFER'}, bit for bit")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="kept afterwards")
    asked = parser.parse_args()
    if asked.folder is not None:
        asked.folder.mkdir(parents=True)
        return not compare(asked.folder, asked.ranks, asked.kills)
    with tempfile.TemporaryDirectory() as folder:
        return not compare(Path(folder), asked.ranks, asked.kills)


if __name__ == "__main__":
    sys.exit(main())
