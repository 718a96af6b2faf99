"""Curves of runs over epochs, several in one plot: errors (the paper's figure 1), loss, rate, speed, stalls."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainer.reporting.drawing import COLOURS, Axes, Line, lines_svg, stack_svg
from trainer.reporting.history import Entry, History, column, means, number, table
from trainer.training.summary import WAIT_NAMES

_SHOWN = 0.01  # share of the stalls: a smaller cause is left out
TRAINING, VALIDATION, TOP5 = ":", "-", "--"  # styles of lines


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot; `name` is that of its file, without a suffix."""

    name: str
    title: str
    svg: str
    alt: str
    note: str = ""


def colour_of(run: int) -> str:
    return COLOURS[run % len(COLOURS)]


def curves(runs: Sequence[History], reach: float, *, named: bool = False) -> Iterator[Plot]:
    """The plots that have anything to show; `named` ones tell the runs' names.

    reach   training error, a share, marked in the plot of errors
    """
    several = len(runs) > 1
    level = 100 * reach if several else None
    names = [Line([], [], colour_of(place), run.name) for place, run in enumerate(runs)] if named and several else []
    plots = [
        ("error", "Error", errors(runs), Axes("error, %", level=level), "training and validation error"),
        ("loss", "Loss", losses(runs), Axes("loss"), "training and validation loss"),
        ("learning-rate", "Learning rate", rates(runs), Axes("learning rate", logarithmic=True), "learning rate"),
        ("throughput", "Throughput", speeds(runs), Axes("images/s"), "images a second in training"),
    ]
    for name, title, lines, axes, what in plots:
        if lines:
            ends = "; ".join(f"{line.label or 'the last'} {line.y[-1]:.3g}" for line in lines[:3])
            svg = lines_svg([*lines, *names], axes)
            yield Plot(name, title, svg, f"Over epochs: {what}, in the end {ends}")
    for place, run in enumerate(runs):
        yield from stalls(run, f"-{place + 1}" if several else "")


def errors(runs: Sequence[History]) -> list[Line]:
    """Training error within epochs; top-1 and top-5 validation error at their ends. Percent."""
    lines = _of_steps(runs, "train_error", style=TRAINING, label="training", averaged=True, scale=100.0)
    for name, label, style in (("val_top1_error", "top-1", VALIDATION), ("val_top5_error", "top-5", TOP5)):
        lines += _of_epochs(runs, name, style, f"validation, {label}", 100.0)
    return lines


def losses(runs: Sequence[History]) -> list[Line]:
    lines = _of_steps(runs, "loss", style=TRAINING, label="training", averaged=True)
    return lines + _of_epochs(runs, "val_loss", VALIDATION, "validation")


def rates(runs: Sequence[History]) -> list[Line]:
    return _of_steps(runs, "learning_rate", steps=True)


def speeds(runs: Sequence[History]) -> list[Line]:
    return _of_steps(runs, "images_per_s", averaged=True)


def stalls(run: History, suffix: str = "") -> Iterator[Plot]:
    """The share of time waited for data, by cause, stacked."""
    waits = [table(step, "waits") for step in run.steps]
    shares = {cause: _percent(waits, cause) for cause in WAIT_NAMES}
    shown = _SHOWN * sum(map(sum, shares.values()))
    columns = {WAIT_NAMES[cause]: means(run.steps_at, of) for cause, of in shares.items() if sum(of) > shown}
    if columns:
        at = next(iter(columns.values()))[0]
        svg = stack_svg(at, {name: values for name, (_, values) in columns.items()}, Axes("time stalled, %", top=5.0))
        alt = f"Share of the time that {run.name} waited for data over epochs, by cause: {', '.join(columns)}"
        yield Plot(f"stalls{suffix}", f"Stalls on data{': ' + run.name if suffix else ''}", svg, alt)


def _percent(waits: Sequence[Entry], cause: str) -> list[float]:
    shares = (number(each, cause) for each in waits)
    return [100 * share if math.isfinite(share) else 0.0 for share in shares]


def _of_steps(
    runs: Sequence[History],
    name: str,
    *,
    style: str = "-",
    label: str = "",
    averaged: bool = False,
    steps: bool = False,
    scale: float = 1.0,
) -> list[Line]:
    take: Callable[[list[float], list[float]], tuple[list[float], list[float]]] = means if averaged else _finite
    found = (
        (place, *take(run.steps_at, [scale * each for each in column(run.steps, name)]))
        for place, run in enumerate(runs)
    )
    return _lines(found, style, label, steps=steps)


def _of_epochs(runs: Sequence[History], name: str, style: str, label: str, scale: float = 1.0) -> list[Line]:
    found = (
        (place, *_finite([each + 1 for each in column(run.epochs, "epoch")], _scaled(run, name, scale)))
        for place, run in enumerate(runs)
    )
    return _lines(found, style, label, marked=True)


def _scaled(run: History, name: str, scale: float) -> list[float]:
    return [scale * each for each in column(run.epochs, name)]


def _finite(at: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    return means(at, values, points=max(1, len(values)))


def _lines(
    found: Iterator[tuple[int, list[float], list[float]]],
    style: str,
    label: str,
    *,
    marked: bool = False,
    steps: bool = False,
) -> list[Line]:
    """The lines that have points; the first one has the label."""
    lines: list[Line] = []
    for place, at, values in found:
        if at:
            lines.append(Line(at, values, colour_of(place), "" if lines else label, style, marked, steps))
    return lines
