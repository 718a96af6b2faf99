"""The ILSVRC2012 development kit: class ids, labels of the validation images, and the record order of packing.

data/meta.mat                                ILSVRC2012_ID and WordNet id, the name here, of each class
data/ILSVRC2012_validation_ground_truth.txt  the class id of each validation image, one a line, in order
"""

import re
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..untrusted import open_regular, open_tar, read_regular, tar_members
from .mat_file import structures

ORDER_SEED = 2012
DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_MAX_BYTES = 1 << 24  # of either file; they have less than a megabyte
_REASON_CHARACTERS = 200
_LEAF_CLASSES = 1000  # higher ids are inner nodes of the WordNet tree
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")


@dataclass(frozen=True, slots=True)
class Devkit:
    """The devkit's tables.

    ids     ILSVRC2012_ID by class name
    truth   class name of each validation image, from number 1 on
    words   English description by class name
    """

    ids: dict[str, int]
    truth: tuple[str, ...]
    words: dict[str, str] = field(default_factory=dict)

    def number_of(self, file_name: str) -> int:
        """The number in a validation image's file name, or 0."""
        match = _IMAGE.search(file_name)
        number = int(match[1]) if match else 0
        return number if number <= len(self.truth) else 0


def image_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


def read_devkit(path: Path) -> Devkit:
    """Read the devkit's archive, its unpacked folder, or the folder that holds either. Raises UsageError."""
    try:
        truth, meta = _files(path)
        name_of, words_of = _names(meta)
        ids = [int(line) for line in truth.split()]
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename} is missing: the ILSVRC2012 devkit has the labels of the validation images"
        ) from None
    except (OSError, tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        reason = f"{error.filename} is {error.strerror}" if isinstance(error, OSError) and error.filename else error
        raise UsageError(f"the devkit in {path} cannot be read: {_short(str(reason))}") from None
    for number, class_id in enumerate(ids, 1):
        if class_id not in name_of:
            raise UsageError(f"{_TRUTH}: line {number} is {class_id}, which is not a class in {_META}")
    return Devkit(
        {name: class_id for class_id, name in name_of.items()},
        tuple(name_of[class_id] for class_id in ids),
        {name_of[class_id]: words for class_id, words in words_of.items()},
    )


def _short(text: str) -> str:
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "..."


def _files(path: Path) -> tuple[bytes, bytes]:
    for folder in (path, path / DEVKIT):
        if (folder / _META).is_file():
            return read_regular(folder / _TRUTH, _MAX_BYTES), read_regular(folder / _META, _MAX_BYTES)
    archive = path / f"{DEVKIT}.tar.gz" if path.is_dir() else path
    found: dict[str, bytes] = {}
    with open_regular(archive) as file, open_tar(file, "r:*") as opened:
        for member in tar_members(opened):
            name = member.name.removeprefix("./").removeprefix(f"{DEVKIT}/")
            if name in (_TRUTH, _META) and member.isreg():
                found[name] = _extract(opened, member)
            if len(found) == 2:
                return found[_TRUTH], found[_META]
    raise ValueError(f"it lacks {DEVKIT}/{_META if _TRUTH in found else _TRUTH}")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_BYTES:
        raise ValueError(f"{member.name} has {member.size:,} bytes, more than {_MAX_BYTES:,}")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _names(meta: bytes) -> tuple[dict[int, str], dict[int, str]]:
    try:
        rows = structures(meta, "synsets", ("ILSVRC2012_ID", "WNID", "words"))
    except ValueError as error:
        raise ValueError(f"{_META}: {error}") from None
    leaves = [
        (number, wnid, words)
        for number, wnid, words in rows
        if isinstance(number, int) and isinstance(wnid, str) and 1 <= number <= _LEAF_CLASSES
    ]
    if not leaves:
        raise ValueError(f"{_META} names no class")
    names = {number: wnid for number, wnid, _ in leaves}
    return names, {number: words for number, _, words in leaves if isinstance(words, str)}


def shuffled(count: int, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..count - 1, from Philox's raw draws, which no version of numpy changes.

    Record r of a packed dataset is item `shuffled(items, ORDER_SEED)[r]` of its source, unless images were left out.
    """
    draws = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64)
