"""CIFAR-10's binary files in small: the same names, the same records."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UsageError
from common.images import image_file
from loader.dataset import Dataset
from loader.packing import discover
from loader.packing.pack import PackOptions, pack

CLASSES = ("airplane", "automobile", "bird")
COUNTS = {**{f"data_batch_{number}.bin": 2 + number for number in range(1, 6)}, "test_batch.bin": 4}
TRAINING = [name for name in COUNTS if name.startswith("data")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    draws = np.random.default_rng(0)
    for name, count in COUNTS.items():
        records = draws.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % len(CLASSES)
        (folder / name).write_bytes(records.tobytes())
    return folder


def test_every_record_is_a_picture_with_its_label(folder: Path) -> None:
    sources = discover.sources(folder)
    assert sources["train"].classes == sources["val"].classes == CLASSES
    assert {split: len(source) for split, source in sources.items()} == {"train": 25, "val": 4}
    records = np.concatenate([np.fromfile(folder / name, np.uint8).reshape(-1, 3073) for name in TRAINING])
    for item, record in enumerate(records):
        assert sources["train"].labels[item] == record[0]
        rgb, _ = image_file.decode(sources["train"].read(item))
        assert np.array_equal(rgb, record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert [sources["train"].name(item) for item in (0, 2, 3)] == [
        "data_batch_1.bin/00000",
        "data_batch_1.bin/00002",
        "data_batch_2.bin/00000",
    ]


def test_it_is_packed_like_any_other(folder: Path, tmp_path: Path) -> None:
    pack(discover.sources(folder), tmp_path / "data", PackOptions(1, "stop", 8))
    with Dataset(tmp_path / "data" / "train.lmdb") as packed:
        assert (packed.records, packed.classes) == (25, CLASSES)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "batches.meta.txt").unlink(), "batches.meta.txt, with the classes' names"),
        (lambda folder: (folder / "test_batch.bin").unlink(), "test_batch.bin cannot be read"),
        (lambda folder: (folder / "data_batch_3.bin").write_bytes(b"x" * 5000), "5,000 bytes, no multiple"),
        (lambda folder: (folder / "data_batch_3.bin").write_bytes(b"\x07" * 3073), "label 7, batches.meta.txt but 3"),
    ],
)
def test_what_is_missing_or_cut_off_is_named(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(UsageError, match=message):
        discover.sources(folder)
