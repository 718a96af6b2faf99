"""Datasets with corrupt records."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

from loader.dataset import Dataset
from loader.meta import Identity, Meta, Progress
from loader.packing.dataset_writer import Writer
from loader.records import digest_of, extend_chain, record_bytes


def progress_of(meta: Meta) -> Progress:
    identity = Identity(**{field.name: getattr(meta, field.name) for field in fields(Identity)})
    return Progress.at_start(identity, meta.versions)


def with_records(packed: Path, folder: Path, changed: dict[int, bytes], split: str = "train") -> Path:
    """A copy of the dataset in `folder` with other JPEGs as records of `split`; checksums and digest are right."""
    folder.mkdir(parents=True)
    other = {"train": "val.lmdb", "val": "train.lmdb"}[split]
    shutil.copyfile(packed / other, folder / other)
    with Dataset(packed / f"{split}.lmdb") as dataset, Writer(folder / f"{split}.lmdb") as writer:
        labels_and_jpegs = [dataset.read(record) for record in range(dataset.records)]
        values = [
            record_bytes(label, changed.get(record, jpeg)) for record, (label, jpeg) in enumerate(labels_and_jpegs)
        ]
        chain = b""
        for value in values:
            chain = extend_chain(chain, value)
        names = [dataset.name(record) for record in range(dataset.meta.named)]
        writer.commit(0, values, [], replace(progress_of(dataset.meta), named=len(names)), names)
        writer.finish(replace(dataset.meta, digest=digest_of(chain, split, dataset.classes, dataset.stats)))
    return folder


def flip_a_bit(data: Path, record: int) -> None:
    """Damage a training record on disk, in the middle of its JPEG."""
    path = data / "train.lmdb"
    with Dataset(path) as dataset:
        _, jpeg = dataset.read(record)
    raw = bytearray(path.read_bytes())
    assert raw.count(jpeg[:2000]) == 1
    raw[raw.find(jpeg[:2000]) + 1500] ^= 1
    path.write_bytes(raw)
