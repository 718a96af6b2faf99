"""Recognise the layout of SOURCE and open the sources of its splits."""

from pathlib import Path

from common.errors import UsageError
from loader.packing import archive, cifar, ilsvrc, imagenet_folders
from loader.packing.sources import FolderSource, Source, warn_of_test

EXPECTED = (
    "train/<class>/* and perhaps val/<class>/*, as folders or in one plain .tar, or the ILSVRC2012 archives, Kaggle's"
    " ILSVRC, Tiny ImageNet, or CIFAR-10's .bin files"
)


def sources(path: Path) -> dict[str, Source]:
    """Sources of "train" and, if there is one, "val". Raises UsageError that lists the supported layouts."""
    try:
        path.lstat()  # unlike os.path.lexists, raises PermissionError
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} does not exist; SOURCE holds {EXPECTED}") from None
    if path.is_file():
        return dict(archive.tree(path))
    if not path.is_dir():
        raise UsageError(f"{path} is neither a folder nor a regular file; SOURCE holds {EXPECTED}")
    if ilsvrc.is_ilsvrc(path):
        return dict(ilsvrc.archives(path))
    if cifar.is_cifar(path):
        return cifar.batches(path)
    if imagenet_folders.is_tiny(path):
        return imagenet_folders.tiny(path)
    if (images := imagenet_folders.find_kaggle(path)) is not None:
        return imagenet_folders.kaggle(images)
    return _folders(path)


def _folders(path: Path) -> dict[str, Source]:
    if not (path / "train").is_dir():
        cifar.refuse_pickles(path)
        raise UsageError(f"{path} holds no train/; SOURCE holds {EXPECTED}")
    train = FolderSource(path / "train")
    warn_of_test(path)
    if not (path / "val").is_dir():
        return {"train": train}
    return {"train": train, "val": FolderSource(path / "val", train.classes)}
