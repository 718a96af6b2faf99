"""Small image collections: folder trees of drawn JPEGs, and the contents of a packed folder."""

import hashlib
from pathlib import Path

import numpy as np

from common.images import jpeg
from loader.dataset import Dataset

CLASSES = ("ape", "bee", "cat")


def photo(seed: int, height: int = 48, width: int = 60) -> bytes:
    """A JPEG of smooth noise, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return jpeg.encode(np.kron(coarse, np.ones((6, 6, 1), np.uint8))[:height, :width].copy(), 90)


def make_tree(root: Path, train: int, val: int = 0, bad_every: int = 0) -> Path:
    """`root/train/<class>/*` of `train` images over three classes in turn, and `root/val/<class>/*`; each `bad_every`th
    is truncated.
    """
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            folder = root / split / CLASSES[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            data = photo(index + (split == "val") * 1_000_000)
            bad = bad_every and index % bad_every == 0
            (folder / f"{index:05}.jpg").write_bytes(data[: len(data) // 2] if bad else data)
    return root


def contents(data: Path) -> dict[str, tuple[bytes, int, str]]:
    """For each split its digest, its records, a hash of all labels and JPEGs; and the images skipped."""
    found = {"skipped": (b"", 0, (data / "skipped.jsonl").read_text())}
    for path in sorted(data.glob("*.lmdb")):
        with Dataset(path) as dataset:
            told = hashlib.sha256()
            for record in range(dataset.records):
                label, stored = dataset.read(record)
                told.update(label.to_bytes(4, "big") + len(stored).to_bytes(4, "big") + stored)
            found[dataset.split] = dataset.digest, dataset.records, told.hexdigest()
    return found
