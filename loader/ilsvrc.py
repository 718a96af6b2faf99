"""The ILSVRC2012 archives as they are downloaded, read in place.

In one folder:
    ILSVRC2012_img_train.tar     n01440764.tar ...: a tar of tars, one a class
    ILSVRC2012_img_val.tar       ILSVRC2012_val_00000001.JPEG ...
    ILSVRC2012_devkit_t12.tar.gz, or its unpacked folder: the validation pictures' ids, and the ids' class names
"""

import io
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import UsageError
from loader.archive import ArchiveSource, Member, members
from loader.sources import check_classes, readable

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_LEAF_CLASSES = 1000  # ids above are inner nodes of WordNet's tree
_LISTING_THREADS = 8  # headers lie far apart: reading them waits for the disk


def is_ilsvrc(folder: Path) -> bool:
    return (folder / TRAIN).exists() or (folder / VAL).exists()


def archives(folder: Path) -> dict[str, ArchiveSource]:
    """Sources of "train" and, where its archive is there, "val". Raises UsageError naming what is missing."""
    if not (folder / TRAIN).exists():
        raise UsageError(f"{folder} holds {VAL} but no {TRAIN}")
    train = _train(folder / TRAIN)
    if not (folder / VAL).exists():
        return {"train": train}
    return {"train": train, "val": _val(folder, train.classes)}


def _train(path: Path) -> ArchiveSource:
    inner = sorted((m for m in members(path) if m.name.endswith(b".tar")), key=lambda member: member.name)
    if not inner:
        raise UsageError(f"{path} holds no n........tar: it is not the archive of the training pictures")
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        listings = list(pool.map(lambda member: _class_members(path, member), inner))
    classes = tuple(readable(member.name.removesuffix(b".tar")) for member in inner)
    labels = np.repeat(np.arange(len(inner), dtype=np.int32), [len(listing) for listing in listings])
    return ArchiveSource(path, (member for listing in listings for member in listing), labels, classes)


def _class_members(path: Path, inner: Member) -> list[Member]:
    folder = inner.name.removesuffix(b".tar") + b"/"
    pictures = [Member(folder + m.name.removeprefix(b"./"), m.offset, m.size) for m in members(path, inner)]
    return sorted(pictures, key=lambda member: member.name)


def _val(folder: Path, classes: tuple[str, ...]) -> ArchiveSource:
    truth, wnid_of = _devkit(folder)
    pictures = sorted(members(folder / VAL), key=lambda member: member.name)
    wnids = [_wnid(picture, truth, wnid_of) for picture in pictures]
    check_classes(wnids, classes, str(folder / VAL))
    label_of = {name: label for label, name in enumerate(classes)}
    return ArchiveSource(folder / VAL, pictures, np.array([label_of[wnid] for wnid in wnids], np.int32), classes)


def _wnid(picture: Member, truth: list[int], wnid_of: dict[int, str]) -> str:
    match = re.search(rb"ILSVRC2012_val_(\d{8})\.JPEG$", picture.name)
    number = int(match[1]) if match else 0
    if not 1 <= number <= len(truth):
        raise UsageError(f"{VAL}: {readable(picture.name)} is none of the {len(truth):,} pictures of the devkit")
    if truth[number - 1] not in wnid_of:
        raise UsageError(f"{_TRUTH}: line {number} is {truth[number - 1]}, which {_META} does not know as a class")
    return wnid_of[truth[number - 1]]


def _devkit(folder: Path) -> tuple[list[int], dict[int, str]]:
    """ILSVRC2012_ID of each validation picture, in order, and the class name (WordNet id) of each."""
    unpacked, packed = folder / DEVKIT, folder / f"{DEVKIT}.tar.gz"
    try:
        if unpacked.is_dir():
            truth, meta = (unpacked / _TRUTH).read_bytes(), (unpacked / _META).read_bytes()
        else:
            with tarfile.open(packed) as archive:
                truth, meta = _extract(archive, _TRUTH), _extract(archive, _META)
        return [int(line) for line in truth.split()], _wnids(meta)
    except FileNotFoundError as error:
        missing = error.filename
        raise UsageError(f"{VAL} needs {DEVKIT}.tar.gz beside it, for the labels: {missing} is missing") from None
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, IndexError) as error:
        raise UsageError(f"the devkit in {folder} cannot be read: {error}") from None


def _extract(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"{DEVKIT}/{name}")  # KeyError where it is not there
    assert file is not None
    return file.read()


def _wnids(meta: bytes) -> dict[int, str]:
    from scipy.io import loadmat  # slow to import, and needed here only

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    ids = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    return {number: wnid for number, wnid in ids.items() if 1 <= number <= _LEAF_CLASSES}
