"""Draws how a run learned, from its metrics.jsonl, as a picture.

python tests/bench/curve.py runs/first [--out tests/bench/curve.svg]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from trainer.training import metrics


def draw(run: Path, out: Path) -> None:
    """Training error within epochs and validation error at their ends, over pictures seen."""
    lines = metrics.read(run / metrics.FILE_NAME)
    begin = next(line for line in lines if line["kind"] == "run")
    records = begin["dataset"]["train_records"]
    batch_size = begin["recipe"]["batch_size"]
    per_epoch = -(-records // batch_size)
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    width = max(1, len(steps) // 100)
    groups = [steps[first : first + width] for first in range(0, len(steps), width)]
    figure, axes = plt.subplots(figsize=(7, 3.5))
    axes.plot(
        [group[-1]["step"] / per_epoch for group in groups],
        [100 * sum(line["train_error"] for line in group) / len(group) for group in groups],
        color="tab:gray",
        label="training (with dropout, crops, noise)",
    )
    for name, colour, label in (("top1", "tab:blue", "top-1"), ("top5", "tab:orange", "top-5")):
        found = {line["epoch"] + 1: line[f"val_{name}_error"] for line in epochs}
        errors = {epoch: 100 * error for epoch, error in found.items() if error is not None}  # no top-5 of few classes
        if errors:
            axes.plot(list(errors), list(errors.values()), "o-", color=colour, label=f"validation {label}")
    axes.set(xlabel="epochs", ylabel="error, %", ylim=(0, 100), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of alexnet-trainer")
    parser.add_argument("--out", type=Path, default=Path("curve.svg"), help="picture to write")
    given = parser.parse_args()
    draw(given.run, given.out)


if __name__ == "__main__":
    main()
