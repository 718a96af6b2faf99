"""Tables of a page: each run in a row, its environment and its recipe."""

import json
import math
from dataclasses import dataclass

from common.cli.progress import duration, percent
from common.errors import UsageError
from trainer.recipes.recipe_file import from_dict, to_toml
from trainer.reporting.curves import colour_of
from trainer.reporting.history import Entry, History, column, number, table

NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """A run's results in words."""

    name: str
    colour: str
    state: str
    recipe: str
    epochs: str
    train_error: str
    val_error: str
    reached: str
    speed: str
    time: str


def row_of(place: int, run: History, reach: float, *, training: bool) -> Row:
    recipe = run.recipe
    planned = number(recipe, "epochs")
    width = number(recipe, "width")
    name = str(recipe.get("name", NONE)) + (f", width {width:g}" if math.isfinite(width) and width != 1 else "")
    until = run.epochs_until(reach)
    speeds = [speed for speed in column(run.epochs or run.steps, "images_per_s") if math.isfinite(speed)]
    seconds = sum(filter(math.isfinite, column(run.epochs, "train_seconds") + column(run.epochs, "val_seconds")))
    return Row(
        name=run.name,
        colour=colour_of(place),
        state="training" if training else "ended",
        recipe=name,
        epochs=f"{len(run.epochs)}" + (f" of {planned:.0f}" if math.isfinite(planned) else ""),
        train_error=_last(run.epochs, "train_error"),
        val_error=_lowest(run),
        reached=NONE if until is None else f"{until:.2f} epochs",
        speed=f"{sum(speeds) / len(speeds):,.0f} images/s" if speeds else NONE,
        time=duration(seconds) if seconds else NONE,
    )


def environment(run: History) -> list[tuple[str, str]]:
    """A run's latest start, from metrics.jsonl; fields it lacks are left out."""
    start, dataset, init = run.start, run.dataset, table(run.start, "init")
    versions = ", ".join(f"{name} {version}" for name, version in table(start, "versions").items())
    devices = start.get("devices")
    rows = {
        "Dataset": _dataset(dataset),
        "Network": start.get("net"),
        "Devices": ", ".join(map(str, devices)) if isinstance(devices, list) else None,
        "Precision": start.get("precision"),
        "CPU threads": start.get("threads"),
        "Seed": start.get("seed"),
        "Seed of the data": start.get("data_seed"),
        "Versions": versions or None,
        "Resumed": f"{len(run.starts) - 1} times" if len(run.starts) > 1 else None,
        "Changed by resumes": "; ".join(_changes(run.starts)) or None,
        "Initialised from": init.get("checkpoint"),
        "Corrupt records replaced": _replaced(run),
        "Damaged lines of metrics.jsonl": run.damaged or None,
    }
    return [(name, str(value)) for name, value in rows.items() if value is not None]


def recipe_text(run: History) -> str:
    """The recipe as TOML; as JSON if it is another version's; empty if it is unknown."""
    try:
        return to_toml(from_dict(run.recipe)) if run.recipe else ""
    except UsageError:
        return json.dumps(run.recipe, indent=2, ensure_ascii=False)


def _dataset(dataset: Entry) -> str | None:
    if not dataset:
        return None
    train, val, classes = (number(dataset, name) for name in ("train_records", "val_records", "classes"))
    counts = [f"{count:,.0f} {what}" for count, what in ((train, "training images"), (val, "validation images"),
              (classes, "classes")) if math.isfinite(count)]  # fmt: skip
    return ", ".join([*counts, f"digest {dataset.get('digest')}"])


def _changes(starts: list[Entry]) -> list[str]:
    return [f"{name}: {change}" for start in starts for name, change in table(start, "changed").items()]


def _replaced(run: History) -> str | None:
    replaced = sum(filter(math.isfinite, column(run.epochs, "replaced")))
    return f"{replaced:,.0f}" if replaced else None


def _last(entries: list[Entry], name: str) -> str:
    last = number(entries[-1], name) if entries else math.nan
    return percent(last) if math.isfinite(last) else NONE


def _lowest(run: History) -> str:
    errors = [(number(each, "val_top1_error"), number(each, "val_top5_error"), number(each, "epoch"))
              for each in run.epochs]  # fmt: skip
    errors = [each for each in errors if math.isfinite(each[0])]
    if not errors:
        return NONE
    top1, top5, epoch = min(errors)
    top5_text = f", top-5 {percent(top5)}" if math.isfinite(top5) else ""
    return f"{percent(top1)}{top5_text} (epoch {epoch + 1:.0f})"
