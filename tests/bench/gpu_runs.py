"""Runs that tests/bench/gpu.sh made, in figures.

    python tests/bench/gpu_runs.py waits RUN
    python tests/bench/gpu_runs.py same WHOLE OTHER

`waits` prints of each epoch the rate, the validation errors, and the share of time spent waiting for data, by reason.
`same` fails unless the losses of OTHER's steps, to the last bit, are those that WHOLE had at these steps.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def lines(run: Path, kind: str) -> list[Line]:
    entries = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, entries) if line["kind"] == kind]


def waits(epochs: Sequence[Line]) -> str:
    rows = ["epoch  images/s  seconds  validation  top-1 error  waiting"]
    for line in epochs:
        reasons = ", ".join(f"{name} {share:.1%}" for name, share in line["waits"].items() if share >= 0.001)
        error = "" if line["val_top1_error"] is None else f"{line['val_top1_error']:.2%}"
        rows.append(
            f"{line['epoch'] + 1:5d} {line['images_per_s']:9,.0f} {line['train_seconds']:8.2f}"
            f" {line['val_seconds']:11.2f}  {error:>11s} {line['wait_share']:8.1%}  {reasons}"
        )
    if not epochs:
        return "no epoch was finished"
    seconds = sum(line["train_seconds"] for line in epochs)
    waited = sum(line["train_seconds"] * line["wait_share"] for line in epochs)
    return "\n".join([*rows, f"all: {seconds:.1f} s of training, {waited / seconds:.1%} of it waiting for data"])


def differing(whole: Sequence[Line], other: Sequence[Line]) -> list[int]:
    """Steps whose loss is not that of the whole run at the same step."""
    losses = {line["step"]: line["loss"] for line in whole}
    return [line["step"] for line in other if losses.get(line["step"]) != line["loss"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("figures", choices=["waits", "same"])
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    if given.figures == "waits":
        print_line(waits(lines(given.runs[0], "epoch")))
        return
    whole, other = (lines(run, "step") for run in given.runs)
    resumes = [line["step"] for line in lines(given.runs[1], "run") if line["step"]]
    if not other:
        sys.exit("no step was logged, so nothing was compared")
    if found := differing(whole, other):
        sys.exit(f"{len(found)} of {len(other)} losses differ, first at step {found[0]}")
    print_line(f"{len(other)} losses until step {other[-1]['step']} are the same to the bit, resumed at {resumes}")


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
