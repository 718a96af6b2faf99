"""Packed datasets to measure on: real photos if a folder is given, else drawn ones, repeated to a number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.images import jpeg
from loader.dataset import Dataset
from loader.packing import discover
from loader.packing.dataset_writer import Writer
from loader.packing.pack import PackOptions, pack
from loader.records import digest_of, extend_chain, record_bytes
from tests.support.bad_records import progress_of

MADE = 100
_COMMIT = 1000


def packed_records(source: Path | None, folder: Path, records: int) -> Path:
    """A dataset in `folder` whose train split holds `records` records: the images of `source`, repeated."""
    once = folder / "once"
    pack({"train": discover.sources(source or _make_photos(folder / "made"))["train"]}, once, PackOptions(2, "skip"))
    data = folder / "data"
    data.mkdir()
    with Dataset(once / "train.lmdb") as dataset, Writer(data / "train.lmdb") as writer:
        values = [record_bytes(*dataset.read(record)) for record in range(dataset.records)]
        chain = b""
        for first in range(0, records, _COMMIT):
            chunk = [values[record % len(values)] for record in range(first, min(first + _COMMIT, records))]
            for value in chunk:
                chain = extend_chain(chain, value)
            writer.commit(first, chunk, [], progress_of(dataset.meta))
        digest = digest_of(chain, "train", dataset.classes, dataset.stats)
        writer.finish(replace(dataset.meta, records=records, digest=digest))
    return data


def jpegs_of(data: Path, count: int) -> list[bytes]:
    with Dataset(data / "train.lmdb") as dataset:
        return [dataset.read(record)[1] for record in range(min(count, dataset.records))]


def as_files(data: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The train split's images, a file each, and `Dataset.colour`; written once."""
    folder = data / "files"
    with Dataset(data / "train.lmdb") as dataset:
        names = [str(folder / f"{record:06}.jpg") for record in range(dataset.records)]
        if not folder.exists():
            unfinished = data / "files.part"
            unfinished.mkdir()
            for record, name in enumerate(names):
                (unfinished / Path(name).name).write_bytes(dataset.read(record)[1])
            unfinished.rename(folder)
        return names, dataset.colour


def _make_photos(folder: Path) -> Path:
    """Images as hard to decode as photos of the usual size: gradients, edges and noise."""
    y, x = np.mgrid[0:375, 0:500]
    for number in range(MADE):
        rng = np.random.default_rng(number)
        a, b, c, d = rng.uniform(8, 60, 4)
        planes = [np.sin(x / a + y / b), np.cos(x * y / (400 * c)), np.sign(np.sin(x / c) * np.sin(y / d))]
        rgb = 128 + 90 * np.stack(planes, axis=-1) + rng.normal(0, 9, (*x.shape, 3))
        target = folder / "train" / f"class{number % 10}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg.encode(np.clip(rgb, 0, 255).astype(np.uint8), 90))
    return folder
