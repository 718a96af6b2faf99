"""`alexnet-pack`: images to LMDB, once. Heavy libraries are imported on use, which keeps --help fast."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from loader.cli import pack

    pack()
    raise SystemExit

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.cli import log as logs
from common.cli import options
from common.cli.console import result, say, shown, tell
from common.cli.entry import INTERRUPTED, interruptible
from common.errors import DatasetError, UsageError
from common.names import readable, told
from loader.cli.dataset_info import Damaged, as_object, described, to_json

if TYPE_CHECKING:
    from loader.dataset import Dataset
    from loader.packing.pack import Summary
    from loader.packing.sources import Source

_PROGRAM = "alexnet-pack"


_packing, _demo_data, _looking = options.section("Packing"), options.section("Demo"), options.section("Inspection")


@options.command(_PROGRAM)
@click.argument("paths", metavar="[SOURCE] DATA", nargs=-1, type=click.Path(path_type=Path))
@_packing(
    "--jobs", type=click.IntRange(1), show_default="one per core", help="Processes that decode, resize and encode."
)
@_packing(
    "--on-bad",
    default="skip",
    type=click.Choice(["skip", "stop"]),
    help="Skip images that cannot be decoded, listing them in DATA/skipped.jsonl, or stop at the first.",
)
@_packing(
    "--commit",
    default=1024,
    type=click.IntRange(1),
    help="Records per commit; at most this many are redone after a kill.",
)
@_demo_data("--demo", is_flag=True, help="Pack drawn images of ten shapes and textures; takes no SOURCE.")
@_demo_data("--demo-train", default=2000, type=click.IntRange(10), help="Training images.")
@_demo_data("--demo-val", default=500, type=click.IntRange(10), help="Validation images.")
@_looking("--info", is_flag=True, help="Describe DATA; writes nothing.")
@_looking("--verify", is_flag=True, help="With --info: check every record's checksum, label and size.")
@_looking("--json", is_flag=True, help="With --info: print one JSON object, with all classes.")
def main(
    paths: tuple[Path, ...],
    demo: bool,
    demo_train: int,
    demo_val: int,
    info: bool,
    verify: bool,
    json: bool,
    jobs: int | None,
    on_bad: str,
    commit: int,
    log_level: str,
) -> None:
    """Pack images into DATA/train.lmdb and DATA/val.lmdb: 256x256 JPEGs, shuffled, with labels, checksums, mean image
    and colour components.

    SOURCE is a folder, or an uncompressed .tar, of train/<class>/* and optionally val/<class>/*; or one of these as
    distributed: the folder of the ILSVRC2012 archives, Kaggle's ILSVRC, Tiny ImageNet, the unpacked
    cifar-10-binary.tar.gz.

    Images are JPEG, PNG, WebP, AVIF, GIF, TIFF, JPEG 2000, BMP, PPM, TGA or ICO, recognised by content; an animation's
    first frame counts. Images that would take more than 448 MiB to decode are skipped.

    If it is killed, the same command resumes and produces the same dataset.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        if verify and not info:
            raise UsageError("--verify goes with --info: alexnet-pack --info --verify DATA")
        if json and not info:
            raise UsageError("--json goes with --info: alexnet-pack --info --json DATA")
        if info:
            data = _only_data(paths, demo, "--info")
            (_show_json if json else _show)(data, verify)
            return
        from loader.packing.pack import PackOptions, pack

        interruptible()
        data = _only_data(paths, False, "--demo") if demo else _source_and_data(paths)[1]
        sources = _demo(demo_train, demo_val) if demo else _discover(_source_and_data(paths)[0])
        settings = PackOptions(jobs or len(os.sched_getaffinity(0)), on_bad, commit)  # type: ignore[arg-type]
        try:
            summaries = pack(sources, data, settings)
        except KeyboardInterrupt:
            tell(f"{_PROGRAM}: interrupted; what is committed stays: run it again to resume")
            sys.exit(INTERRUPTED)
        for summary in summaries:
            say(_told(summary, data, settings.jobs))
            if summary.empty_classes:
                say(_told_empty(summary))
        if "val" not in sources:
            say("SOURCE has no val: no val.lmdb is written, and the trainer has nothing to validate on")
        if any(summary.skipped for summary in summaries):
            say(f"{shown(data / 'skipped.jsonl')} lists the skipped images, with reasons")


def _source_and_data(paths: tuple[Path, ...]) -> tuple[Path, Path]:
    if len(paths) != 2:
        raise UsageError(f"give SOURCE and DATA (or --demo DATA, or --info DATA), not {len(paths)} paths; see --help")
    return paths[0], paths[1]


def _only_data(paths: tuple[Path, ...], other: bool, option: str) -> Path:
    if other:
        raise UsageError("--demo cannot be used with --info")
    if len(paths) != 1:
        raise UsageError(f"{option} takes only DATA, not {len(paths)} paths")
    return paths[0]


def _demo(train: int, val: int) -> "dict[str, Source]":
    from loader.packing.demo import DemoSource

    return {"train": DemoSource("train", train), "val": DemoSource("val", val)}


def _discover(source: Path) -> "dict[str, Source]":
    from loader.packing import discover

    return discover.sources(source)


def _told(summary: "Summary", data: Path, jobs: int) -> str:
    path = data / f"{summary.split}.lmdb"
    what = (
        f"{shown(path)}: {summary.records:,} records, {summary.classes:,} classes, {summary.file_bytes / 1e6:,.1f} MB"
    )
    what += f", {summary.skipped:,} skipped"
    if summary.warned:
        what += f", {summary.warned:,} kept despite a decoder warning (extra bytes, odd headers)"
    if not summary.packed:
        return f"{what}; already complete"
    rate = summary.packed / summary.seconds
    return f"{what}; {summary.seconds:,.1f} s, {rate:,.0f} images/s, {rate / jobs:,.0f} per process"


def _told_empty(summary: "Summary") -> str:
    first, *others = summary.empty_classes
    more = f" and {len(others):,} more" if others else ""
    return f"{summary.split}: no image of class {shown(first)}{more} could be decoded; the label stays, without records"


def _show(data: Path, verify: bool) -> None:
    for dataset in _opened(data):
        result(described(dataset))
        if verify:
            _refuse_damage(dataset, _damaged(dataset))
            result("  verified    every record's checksum, label and size, and the digest")


def _show_json(data: Path, verify: bool) -> None:
    """Print an object even if records are damaged, which then is an error too."""
    splits, damage = dict[str, object](), list[DatasetError]()
    for dataset in _opened(data):
        damaged = _damaged(dataset) if verify else None
        splits[dataset.split] = as_object(dataset, damaged)
        try:
            _refuse_damage(dataset, damaged or [])
        except DatasetError as error:
            damage.append(error)
    result(to_json(data, splits))
    if damage:
        raise damage[0]


def _opened(data: Path) -> "Iterator[Dataset]":
    from loader.dataset import Dataset

    interruptible()
    paths = [data / "train.lmdb", data / "val.lmdb"]
    if not any(path.exists() for path in paths):
        raise UsageError(f"{data} holds neither train.lmdb nor val.lmdb")
    for path in filter(Path.exists, paths):
        with Dataset(path) as dataset:
            yield dataset


def _damaged(dataset: "Dataset") -> "list[Damaged]":
    from common.cli.progress import ProgressBar

    found: list[Damaged] = []
    with ProgressBar(f"verify {dataset.split}", dataset.records) as progress:
        for record, fault in enumerate(dataset.verify()):
            if fault:
                found.append((record, readable(dataset.name(record)), fault))
            progress.count(record)
    return found


def _refuse_damage(dataset: "Dataset", damaged: "list[Damaged]") -> None:
    if damaged:
        listed = ", ".join(f"{told(record, name)}: {fault}" for record, name, fault in damaged[:20])
        more = ", ..." if len(damaged) > 20 else ""
        raise DatasetError(
            f"{dataset.path}: {len(damaged):,} of {dataset.records:,} records are damaged: {listed}{more}; pack again"
        )
