"""Descriptions of a packed split, for people and for programs: alexnet-pack --info, and --json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.console import shown
from common.names import readable

if TYPE_CHECKING:
    from loader.dataset import Dataset

Damaged = tuple[int, str, str]  # a record, its name and its fault


def described(dataset: "Dataset") -> str:
    meta = dataset.meta
    classes = [_class(dataset, label) for label in range(min(10, len(dataset.classes)))]
    names = ", ".join(classes) + (", ..." if len(dataset.classes) > 10 else "")
    lines = [
        f"{shown(dataset.path)}: {dataset.records:,} records, {dataset.path.stat().st_size / 1e6:,.1f} MB",
        f"  digest      {dataset.digest.hex()}",
        f"  classes     {len(dataset.classes):,}: {names}",
        *_sizes(dataset),
        f"  names       {_file_names(dataset)}",
        f"  stored      {meta.stored}, shuffled with seed {meta.order_seed}",
        f"  made with   {shown(', '.join(meta.versions.values()))}",
        f"  skipped     {meta.skipped:,} of {meta.items:,}; kept despite a decoder warning: {meta.warned:,}",
        f"  mean RGB    {_numbers(dataset.mean_hwc.mean(axis=(0, 1), dtype=float))} (of the training set, 0..255)",
    ]
    lines += [
        f"  component   sd {sd:7.3f} along RGB {_numbers(component)}"
        for sd, component in zip(dataset.sd, dataset.components, strict=True)
    ]
    return "\n".join(lines)


def _class(dataset: "Dataset", label: int) -> str:
    words = dataset.meta.words
    return shown(dataset.classes[label]) + (f" ({shown(words[label])})" if words and words[label] else "")


def _sizes(dataset: "Dataset") -> list[str]:
    counts = dataset.meta.counts
    if not counts:
        return []
    largest, smallest = max(counts), min(counts)
    told = [f"{count:,} of {_class(dataset, counts.index(count))}" for count in (largest, smallest)]
    return [f"  records     from {told[1]} to {told[0]}"]


def _file_names(dataset: "Dataset") -> str:
    if not dataset.meta.named:
        return "none: packed before names were kept; pack again to have them"
    return f"of all files, such as {shown(readable(dataset.name(0)))}"


def _numbers(values: "object") -> str:
    return " ".join(f"{value:.3f}" for value in values)  # type: ignore[attr-defined]


def as_object(dataset: "Dataset", damaged: Sequence[Damaged] | None) -> dict[str, Any]:
    """An object for JSON of all that `described` tells, with every class; `damaged` is null if nobody looked."""
    meta = dataset.meta
    words, counts = meta.words or [""] * len(dataset.classes), meta.counts or [None] * len(dataset.classes)
    return {
        "path": str(dataset.path),
        "bytes": dataset.path.stat().st_size,
        "records": dataset.records,
        "digest": dataset.digest.hex(),
        "classes": [
            {"name": name, "words": word or None, "records": count}
            for name, word, count in zip(dataset.classes, words, counts, strict=True)
        ],
        "named": meta.named > 0,
        "first_name": readable(dataset.name(0)) or None,
        "stored": meta.stored,
        "order_seed": meta.order_seed,
        "versions": dict(meta.versions),
        "items": meta.items,
        "skipped": meta.skipped,
        "warned": meta.warned,
        "mean_rgb": dataset.mean_hwc.mean(axis=(0, 1), dtype=float).tolist(),
        "components": [
            {"sd": sd, "rgb": rgb} for sd, rgb in zip(dataset.sd.tolist(), dataset.components.tolist(), strict=True)
        ],
        "damaged": None
        if damaged is None
        else [{"record": record, "name": name or None, "fault": fault} for record, name, fault in damaged],
    }


def to_json(data: Path, splits: Mapping[str, object]) -> str:
    return json.dumps({"data": str(data), "splits": splits}, ensure_ascii=False)
