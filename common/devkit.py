"""The development kit of ILSVRC2012: how its classes are numbered, and of which class each validation picture is.

    data/meta.mat                                the classes' ILSVRC2012_ID and WordNet id, which is their name here
    data/ILSVRC2012_validation_ground_truth.txt  the id of each validation picture, a line each, in their order

Packing needs it for labels; evaluation for a file of answers that ILSVRC takes.
"""

import io
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError

DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_LEAF_CLASSES = 1000  # ids above are inner nodes of WordNet's tree
_PICTURE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")


@dataclass(frozen=True, slots=True)
class Devkit:
    """ids: ILSVRC2012_ID by class name. truth: the class name of each validation picture, the first has number 1."""

    ids: dict[str, int]
    truth: tuple[str, ...]

    def number_of(self, picture: str) -> int:
        """1, 2, ... of a validation picture's file name; 0 where it is none of them."""
        match = _PICTURE.search(picture)
        number = int(match[1]) if match else 0
        return number if number <= len(self.truth) else 0


def picture_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


def read_devkit(path: Path) -> Devkit:
    """From ILSVRC2012_devkit_t12.tar.gz, its unpacked folder, or the folder that holds one of them.

    Raises UsageError where it is missing or cannot be read.
    """
    try:
        truth, meta = _files(path)
        name_of = _names(meta)
        ids = [int(line) for line in truth.split()]
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename} is missing: the devkit of ILSVRC2012 says of which class each validation picture is"
        ) from None
    except (OSError, tarfile.TarError, zlib.error, EOFError, ValueError, KeyError, IndexError) as error:
        raise UsageError(f"the devkit in {path} cannot be read: {error}") from None
    for number, class_id in enumerate(ids, 1):
        if class_id not in name_of:
            raise UsageError(f"{_TRUTH}: line {number} is {class_id}, which {_META} does not know as a class")
    return Devkit({name: class_id for class_id, name in name_of.items()}, tuple(name_of[class_id] for class_id in ids))


def _files(path: Path) -> tuple[bytes, bytes]:
    """The ground truth's and meta.mat's bytes."""
    for folder in (path, path / DEVKIT):
        if (folder / _META).is_file():
            return (folder / _TRUTH).read_bytes(), (folder / _META).read_bytes()
    with tarfile.open(path / f"{DEVKIT}.tar.gz" if path.is_dir() else path) as archive:
        return _extract(archive, _TRUTH), _extract(archive, _META)


def _extract(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"{DEVKIT}/{name}")  # KeyError where it is not there
    assert file is not None
    return file.read()


def _names(meta: bytes) -> dict[int, str]:
    from scipy.io import loadmat  # slow to import, and needed here only
    from scipy.io.matlab import MatReadError

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    except MatReadError as error:
        raise ValueError(f"{_META}: {error}") from None
    names = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    return {number: wnid for number, wnid in names.items() if 1 <= number <= _LEAF_CLASSES}
