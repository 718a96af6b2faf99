"""The ILSVRC2012 archives as they are downloaded, read in place.

In one folder:
    ILSVRC2012_img_train.tar     n01440764.tar ...: a tar of tars, one a class
    ILSVRC2012_img_val.tar       ILSVRC2012_val_00000001.JPEG ...
    ILSVRC2012_devkit_t12.tar.gz, or its unpacked folder: labels of the validation images, and class names
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.imagenet.devkit import Devkit, read_devkit
from common.names import readable
from loader.packing.archive import ArchiveSource, TarMember, members
from loader.packing.sources import check_classes

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_LISTING_THREADS = 8  # headers lie far apart, so reading them waits for the disk


def is_ilsvrc(folder: Path) -> bool:
    return (folder / TRAIN).exists() or (folder / VAL).exists()


def archives(folder: Path) -> dict[str, ArchiveSource]:
    """Sources of "train" and, if its archive is there, "val". Raises UsageError naming what is missing."""
    if not (folder / TRAIN).exists():
        raise UsageError(f"{folder} holds {VAL} but no {TRAIN}")
    train = _train(folder / TRAIN)
    if not (folder / VAL).exists():
        return {"train": train}
    val = _val(folder, train.classes)
    train.words = val.words
    return {"train": train, "val": val}


def _train(path: Path) -> ArchiveSource:
    inner = sorted((m for m in members(path) if m.name.endswith(b".tar")), key=lambda member: member.name)
    if not inner:
        raise UsageError(f"{path} holds no n........tar: it is not the archive of the training images")
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        listings = list(pool.map(lambda member: _class_members(path, member), inner))
    classes = tuple(readable(member.name.removesuffix(b".tar")) for member in inner)
    labels = np.repeat(np.arange(len(inner), dtype=np.int32), [len(listing) for listing in listings])
    return ArchiveSource(path, (member for listing in listings for member in listing), labels, classes)


def _class_members(path: Path, inner: TarMember) -> list[TarMember]:
    folder = inner.name.removesuffix(b".tar") + b"/"
    images = [TarMember(folder + m.name.removeprefix(b"./"), m.offset, m.size) for m in members(path, inner)]
    return sorted(images, key=lambda member: member.name)


def _val(folder: Path, classes: tuple[str, ...]) -> ArchiveSource:
    devkit = read_devkit(folder)
    images = sorted(members(folder / VAL), key=lambda member: member.name)
    wnids = [_wnid(image, devkit) for image in images]
    check_classes(wnids, classes, str(folder / VAL))
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[wnid] for wnid in wnids], np.int32)
    return ArchiveSource(folder / VAL, images, labels, classes, devkit.words)


def _wnid(image: TarMember, devkit: Devkit) -> str:
    name = readable(image.name)
    if not (number := devkit.number_of(name)):
        raise UsageError(f"{VAL}: {name} is none of the {len(devkit.truth):,} images of the devkit")
    return devkit.truth[number - 1]
