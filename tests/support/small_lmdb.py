"""Small LMDB files of any records, written without packing."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.images import jpeg
from loader.meta import Identity, Progress
from loader.packing.dataset_writer import Writer
from loader.records import FORMAT, extend_chain
from loader.stats import PartialSums, Stats, Sums

PICTURE = jpeg.encode(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), 90)
CLASSES = ("ape", "bee")


def stats() -> Stats:
    part, sums = PartialSums(), Sums()
    part.add(jpeg.decode(PICTURE))
    sums.merge(part)
    return Stats.of(sums)


def progress(consumed: int, items: int) -> Progress:
    identity = Identity(format=FORMAT, split="train", items=items, source=b"", stored="", order_seed=0)
    return replace(Progress.at_start(identity, {}), consumed=consumed)


def finish(writer: Writer, records: list[bytes], **changes: object) -> None:
    chain = b""
    for record in records:
        chain = extend_chain(chain, record)
    done = replace(progress(len(records), len(records)), records=len(records), chain=chain)
    writer.finish(replace(done.finished(CLASSES, stats(), None, ()), **changes))  # type: ignore[arg-type]


def write(path: Path, records: list[bytes], **changes: object) -> Path:
    with Writer(path) as writer:
        writer.commit(0, records, [], progress(len(records), len(records)))
        finish(writer, records, **changes)
    return path
