"""`alexnet-loader audit`: the digests of what a stream delivered, recomputed from the dataset alone."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.cli import log as logs
from common.cli import options
from common.cli.console import result, shown
from common.cli.entry import interruptible
from common.errors import UsageError
from common.names import told
from common.ranges import EPOCHS, SEEDS

if TYPE_CHECKING:
    from common.spec import StreamSpec
    from loader.workers.audit import Audited, Part


_PROGRAM = "alexnet-loader audit"
_stream, _asked = options.section("Stream"), options.section("Audit")


@options.command(_PROGRAM, short_help="Recompute what a stream delivered.")
@_stream("--data", type=click.Path(path_type=Path), default=Path("data"), help="Folder that alexnet-pack wrote.")
@_stream("--split", type=click.Choice(["train", "val"]), default="train", help="LMDB to read.")
@_stream("--seed", type=click.IntRange(*SEEDS), default=0, help="Seed of order and augmentation.")
@_stream("--view", type=click.Choice(["train", "full"]), default="train", help="Crops, or whole stored images.")
@_stream("--crop", type=int, default=227, help="Height and width of a crop, in pixels.")
@_stream("--sigma", type=float, default=0.1, help="Standard deviation of the colour noise, in each component's own.")
@_stream("--pixels", type=click.Choice(["uint8", "float32"]), default="uint8", help="Type of the delivered pixels.")
@_stream(
    "--on-bad-record",
    type=click.Choice(["replace", "stop"]),
    default="replace",
    help="Treatment of corrupt records, as in the stream.",
)
@_stream("--shuffle", type=bool, default=True, help="A new order for each epoch, or always that of the records.")
@_asked("--epoch", type=click.IntRange(*EPOCHS), required=True, help="Epoch, from 0.")
@_asked("--batches", metavar="A..B", show_default="all", help="First and last batch, from 0.")
@_asked("--batch-size", type=click.IntRange(1, 2**20), default=128, help="Images per line; no effect on the digests.")
@_asked(
    "--dataset",
    metavar="DIGEST",
    show_default="any",
    help='Refuse any other dataset: the "digest" of a run, in line "run" of its metrics.jsonl.',
)
@_asked("--jobs", type=click.IntRange(1, 1024), default=os.cpu_count() or 1, help="Processes.")
def audit(
    data: Path,
    epoch: int,
    batch_size: int,
    batches: str | None,
    dataset: str | None,
    jobs: int,
    log_level: str,
    **stream: Any,
) -> None:
    """Recompute batches from the dataset, without a service, and print their digests.

    The digest in the last line is, for a whole epoch, the one that alexnet-trainer --digest on writes to metrics.jsonl;
    "stream" in that file has the options to give here.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        from common.spec import StreamSpec

        run(data, StreamSpec(**stream), epoch, batch_size, batches, dataset, jobs)


def run(
    data: Path,
    spec: "StreamSpec",
    epoch: int,
    batch_size: int,
    batches: str | None,
    asked: str | None,
    jobs: int,
) -> None:
    from common import digest
    from common.cli.progress import ProgressBar
    from loader.dataset import Dataset
    from loader.workers.audit import audit as audit_parts

    interruptible()
    path = data / f"{spec.split}.lmdb"
    if not path.exists():
        raise UsageError(f"{path} is missing; alexnet-pack makes it (--data)")
    with Dataset(path) as dataset:
        records, contents = dataset.records, dataset.digest
    if asked not in (None, contents.hex()):
        raise UsageError(f"{path} is dataset {contents.hex()}, not {asked} (--dataset)")
    parts = parts_of(epoch, records, batch_size, batches)
    first, done, replaced, rolling = parts[0].first, 0, 0, digest.NOTHING
    with ProgressBar("audited", sum(part.count for part in parts)) as progress:
        for audited in audit_parts(path, contents, spec, batch_size, parts, jobs):
            progress.clear()
            tell(audited, digest.roll(digest.NOTHING, audited.digests), audited.part.first // batch_size)
            rolling, done = digest.roll(rolling, audited.digests), done + audited.part.count
            replaced += len(audited.replaced)
            progress.count(done)
    result(
        f"epoch {epoch}, positions {first}..{first + done - 1} of {records:,}: digest {rolling.hex()},"
        f" corrupt records replaced: {replaced:,}"
    )


def tell(audited: "Audited", digest: bytes, number: int) -> None:
    part = audited.part
    result(f"batch {number}: positions {part.first}..{part.first + part.count - 1}, digest {digest.hex()}")
    for position, record, reason in audited.replaced:
        other = audited.records[position - part.first]
        corrupt, sound = (told(each, audited.names[each]) for each in (record, other))
        result(shown(f"  position {position}: record {corrupt} is corrupt, record {sound} takes its place: {reason}"))


def parts_of(epoch: int, records: int, batch_size: int, batches: str | None) -> "list[Part]":
    """The batches of "A..B", both included, of "A", or all if None. Raises UsageError."""
    from loader.workers.audit import Part

    last = -(-records // batch_size) - 1
    named = re.fullmatch(r"(\d{1,10})(?:\.\.(\d{1,10}))?", batches or f"0..{last}", re.ASCII)
    if named is None:
        raise UsageError(f"{batches!r} names no batches; it looks like 10..19 (--batches)")
    lowest, highest = int(named[1]), int(named[2] or named[1])
    if not lowest <= highest <= last:
        raise UsageError(f"{batches} is not within the epoch's batches, 0..{last} (--batches)")
    firsts = range(lowest * batch_size, min(records, (highest + 1) * batch_size), batch_size)
    return [Part(epoch, first, min(batch_size, records - first)) for first in firsts]
