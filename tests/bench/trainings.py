"""Whole trainings of this checkout beside those of another, in turn: images/s, and whether their losses are the same.

    python tests/bench/trainings.py CHECKOUT [--data DATA] [--recipe source] [--width 0.25] [--batch 64] [--steps 60]
                                    [--rounds 4]

CHECKOUT has an environment of its own, .venv, and each training a loader of its own code. On the CPU. Without --data
it is the demo dataset. A training's images/s is the median of what it logs from the third line on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.paths import ROOT
from tests.support.processes import ANY_PORT, wait_for


def training(checkout: Path, data: Path, options: list[str]) -> list[dict[str, Any]]:
    """The lines that it logged of its steps."""
    programs = checkout / ".venv/bin"
    with tempfile.TemporaryDirectory() as name:
        ready, run, log = (Path(name) / part for part in ("ready", "run", "loader.log"))
        serve = ["--data", str(data), "--bind", ANY_PORT, "--ready-file", str(ready)]
        with log.open("w") as errors:
            loader = subprocess.Popen([programs / "alexnet-loader", *serve], stderr=errors)
        try:
            wait_for("the loader", lambda: (ready.exists() and ready.read_text()) or loader.poll() is not None)
            if not ready.exists():
                sys.exit(log.read_text())
            places = ["--loader", ready.read_text().split()[0], "--run", str(run), "--cpu", "--log-steps", "5"]
            subprocess.run([programs / "alexnet-trainer", *places, *options], check=True, capture_output=True)
        finally:
            loader.terminate()
            loader.wait(60)
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if line["kind"] == "step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=lambda path: Path(path).resolve())
    parser.add_argument("--data", type=lambda path: Path(path).resolve())
    parser.add_argument("--recipe", default="source")
    parser.add_argument("--width", default="0.25")
    parser.add_argument("--batch", default="64")
    parser.add_argument("--steps", default="60")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    options = ["--recipe", given.recipe, "--width", given.width, "--batch-size", given.batch, "--steps", given.steps]
    with tempfile.TemporaryDirectory() as name:
        data = given.data or Path(name) / "data"
        if given.data is None:
            subprocess.run([ROOT / ".venv/bin/alexnet-pack", "--demo", data], check=True, capture_output=True)
        ratios, same = list[float](), True
        for _ in range(given.rounds):
            other, own = (training(checkout, data, options) for checkout in (given.checkout, ROOT))
            same &= [line["loss"] for line in other] == [line["loss"] for line in own]
            rates = [statistics.median(line["images_per_s"] for line in lines[2:]) for lines in (other, own)]
            ratios.append(rates[1] / rates[0])
            sys.stdout.write(f"  {rates[0]:.1f} images/s there, {rates[1]:.1f} here\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"images/s here, of those there: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f});"
        f" losses {'equal' if same else 'DIFFER'}\n"
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
