"""Two datasets that differ in their images alone: files of one size, with the same pages in the same places."""

import shutil
from pathlib import Path

from loader.dataset import Dataset
from tests.support.bad_records import with_records

_BYTES = 16_000  # of each JPEG: what stands behind its end is not decoded


def two_of_one_size(packed: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of the dataset; in the second each training record holds the next one's image under its own label."""
    with Dataset(packed / "train.lmdb") as dataset:
        jpegs = [dataset.read(record)[1].ljust(_BYTES, b"\0") for record in range(dataset.records)]
    one = with_records(packed, folder / "one", dict(enumerate(jpegs)))
    other = with_records(packed, folder / "other", dict(enumerate(jpegs[1:] + jpegs[:1])))
    assert (one / "train.lmdb").stat().st_size == (other / "train.lmdb").stat().st_size
    return one, other


def write_over(path: Path, contents: Path) -> None:
    """Overwrite a file's bytes in place, as `rsync --inplace` does."""
    with contents.open("rb") as source, path.open("r+b") as target:
        shutil.copyfileobj(source, target)
