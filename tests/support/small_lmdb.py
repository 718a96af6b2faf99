"""Small LMDB files of any records, written without packing."""

from pathlib import Path
from typing import Any

import numpy as np

from loader import jpeg
from loader.dataset import Writer
from loader.records import FORMAT, digest_of, extend_chain
from loader.stats import PartialSums, Stats, Sums

PICTURE = jpeg.encode(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), 90)
CLASSES = ("ape", "bee")


def stats() -> Stats:
    part, sums = PartialSums(), Sums()
    part.add(jpeg.decode(PICTURE))
    sums.merge(part)
    return Stats.of(sums)


def progress(consumed: int, items: int) -> dict[str, Any]:
    return {"format": FORMAT, "consumed": consumed, "items": items}


def finish(writer: Writer, records: list[bytes], **changes: object) -> None:
    chain = b""
    for record in records:
        chain = extend_chain(chain, record)
    meta = {
        "format": FORMAT,
        "split": "train",
        "records": len(records),
        "classes": list(CLASSES),
        "stats": stats().to_fields(),
        "digest": digest_of(chain, "train", CLASSES, stats()),
    }
    writer.finish(meta | changes)


def write(path: Path, records: list[bytes], **changes: object) -> Path:
    with Writer(path) as writer:
        writer.commit(0, records, [], progress(len(records), len(records)))
        finish(writer, records, **changes)
    return path
