"""The paper's figure 1: training error over epochs with ReLU and with tanh, from the runs of comparisons.py.

python tests/bench/figure1.py OUT [--picture tests/bench/figure1.svg] [--error 25]

Of each activation's rates the one is shown, with all its seeds, that came to the given training error soonest in the
median of its seeds, or else is lowest in the end.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from trainer.training import metrics


@dataclass(frozen=True, slots=True)
class Run:
    """Training error in percent, without dropout or noise, over epochs."""

    activation: str
    rate: float
    epochs: list[float]
    errors: list[float]

    def epochs_until(self, error: float) -> float:
        return next((epoch for epoch, now in zip(self.epochs, self.errors, strict=True) if now <= error), float("inf"))


def read(run: Path) -> Run:
    lines = metrics.read(run / metrics.FILE_NAME)
    begin = next(line for line in lines if line["kind"] == "run")
    recipe, steps = begin["recipe"], [line for line in lines if line["kind"] == "step"]
    per_epoch = -(-begin["dataset"]["train_records"] // recipe["batch_size"])
    width = 4  # lines that are averaged: of 50 steps each
    groups = [steps[at : at + width] for at in range(0, len(steps) - width + 1, width)]
    return Run(
        recipe["activation"],
        recipe["phase"][0]["rate"],
        [group[-1]["step"] / per_epoch for group in groups],
        [100 * sum(line["train_error"] for line in group) / len(group) for group in groups],
    )


def best(runs: list[Run], activation: str, error: float) -> list[Run]:
    rates = {run.rate for run in runs if run.activation == activation}
    seeds = [[run for run in runs if (run.activation, run.rate) == (activation, rate)] for rate in sorted(rates)]
    return min(seeds, key=lambda of: (median_until(of, error), statistics.median(run.errors[-1] for run in of)))


def median_until(runs: list[Run], error: float) -> float:
    return statistics.median(run.epochs_until(error) for run in runs)


def draw(shown: list[list[Run]], error: float, picture: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.5))
    for seeds, style in zip(shown, ("-", "--"), strict=True):
        label = f"{seeds[0].activation}, learning rate {seeds[0].rate:g}"
        for which, run in enumerate(seeds):
            axes.plot(run.epochs, run.errors, style, color="black", linewidth=1, label="" if which else label)
    axes.axhline(error, color="tab:gray", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error, %", ylim=(0, 90), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--picture", type=Path, default=Path("figure1.svg"), help="picture to write")
    parser.add_argument("--error", type=float, default=25.0, help="training error to reach, percent")
    given = parser.parse_args()
    runs = [read(run) for run in sorted(given.out.glob("bare-*-[0-9]")) if (run / metrics.FILE_NAME).exists()]
    shown = [best(runs, activation, given.error) for activation in ("relu", "tanh")]
    for run in runs:
        reached = run.epochs_until(given.error)
        sys.stdout.write(
            f"{run.activation}, rate {run.rate:g}: {given.error:g} % after {reached:.2f} epochs; "
            f"in the end {run.errors[-1]:.1f} %\n"
        )
    relu, tanh = (median_until(seeds, given.error) for seeds in shown)
    sys.stdout.write(f"median: {given.error:g} % after {relu:.2f} epochs with relu, {tanh:.2f} with tanh\n")
    draw(shown, given.error, given.picture)


if __name__ == "__main__":
    main()
