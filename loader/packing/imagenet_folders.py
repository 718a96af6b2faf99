"""Folders of images whose validation set is labelled by a text file: Kaggle's ILSVRC and Tiny ImageNet.

Kaggle's, and the unpacked archives of ILSVRC2012:
    ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG
    ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG ...   labelled by LOC_val_solution.csv or the devkit
    LOC_val_solution.csv                                       ImageId,PredictionString: the class, then boxes
    ILSVRC2012_devkit_t12.tar.gz, or its folder                see common/imagenet/devkit.py
    LOC_synset_mapping.txt                                     a class a line, and its description
SOURCE is the folder of the last three, or any further inside; they are searched from there upwards.

Tiny ImageNet:
    wnids.txt                          the classes
    words.txt                          descriptions of all of WordNet's classes
    train/<wnid>/images/*.JPEG         beside <wnid>_boxes.txt
    val/images/*.JPEG                  labelled by val/val_annotations.txt
    test/images/*.JPEG                 unlabelled: left out
"""

import os
from collections.abc import Callable
from pathlib import Path

from common.cli.log import error_text
from common.errors import UsageError
from common.imagenet.devkit import DEVKIT, Devkit, read_devkit
from common.imagenet.words import read_words
from common.untrusted import read_regular
from loader.packing.sources import FlatSource, FolderSource, Source, warn_of_test

_KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "")
_SOLUTION, _MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_SUFFIX = ".JPEG"

_TINY_IMAGES, _TINY_ANNOTATIONS, _TINY_WORDS = "images", "val_annotations.txt", "words.txt"

_MAX_TEXT_BYTES = 1 << 26  # ILSVRC's list of validation images, with all boxes, has some megabytes


def find_kaggle(folder: Path) -> Path | None:
    """The folder of train/ and a flat val/, or None."""
    for inner in _KAGGLE_FOLDERS:
        if (folder / inner / "train").is_dir():
            images = Path(os.path.abspath(folder / inner))
            return images if images.name == "CLS-LOC" or _is_flat(images / "val") else None
    return None


def _is_flat(val: Path) -> bool:
    if not val.is_dir():
        return False
    return any(path.name.startswith("ILSVRC2012_val_") for path in val.iterdir())


def kaggle(images: Path) -> dict[str, Source]:
    """Sources of "train" and, if it is there, "val". Raises UsageError naming what is missing."""
    mapping = _beside(images, _MAPPING)
    words = _read_words(mapping) if mapping else {}
    train = FolderSource(images / "train", words=words)
    warn_of_test(images)
    if not (images / "val").is_dir():
        return {"train": train}
    if not _is_flat(images / "val"):
        return {"train": train, "val": FolderSource(images / "val", train.classes, words=words)}
    class_of, said_by = _classes_of_val(images)
    return {"train": train, "val": FlatSource(images / "val", class_of, train.classes, said_by, words)}


def _classes_of_val(images: Path) -> tuple[Callable[[str], str | None], str]:
    solution = _beside(images, _SOLUTION)
    if solution is not None:
        rows = (line.partition(",") for line in _read_lines(solution))
        wnid_of = {image: prediction.split()[0] for image, _, prediction in rows if prediction.strip()}
        return lambda name: wnid_of.get(name.removesuffix(_SUFFIX)), str(solution)
    for name in (DEVKIT, f"{DEVKIT}.tar.gz"):
        found = _beside(images, name)
        if found is not None:
            return _of_devkit(read_devkit(found)), str(found)
    raise UsageError(
        f"{images / 'val'} holds images, not folders of them: {_SOLUTION} or {DEVKIT}.tar.gz, which label them,"
        f" are neither in {images} nor above"
    )


def _of_devkit(devkit: Devkit) -> Callable[[str], str | None]:
    return lambda name: devkit.truth[number - 1] if (number := devkit.number_of(name)) else None


def _beside(images: Path, name: str) -> Path | None:
    """The file beside the images, or in one of the three folders around them."""
    folders = [images, *images.parents[:3]] if images.name == "CLS-LOC" else [images]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def is_tiny(folder: Path) -> bool:
    return (folder / "wnids.txt").is_file() and any((folder / "train").glob(f"*/{_TINY_IMAGES}"))


def tiny(folder: Path) -> dict[str, Source]:
    words = _read_words(folder / _TINY_WORDS) if (folder / _TINY_WORDS).exists() else {}
    train = FolderSource(folder / "train", inside=_TINY_IMAGES)
    train.words = {name: words[name] for name in train.classes if name in words}
    warn_of_test(folder)
    val = folder / "val"
    if not val.is_dir():
        return {"train": train}
    if not (val / _TINY_ANNOTATIONS).exists():  # sorted into classes, as many do
        inside = _TINY_IMAGES if any(val.glob(f"*/{_TINY_IMAGES}")) else ""
        return {"train": train, "val": FolderSource(val, train.classes, inside, train.words)}
    rows = (line.split("\t") for line in _read_lines(val / _TINY_ANNOTATIONS))
    wnid_of = {row[0]: row[1] for row in rows if len(row) > 1}
    said_by = str(val / _TINY_ANNOTATIONS)
    return {"train": train, "val": FlatSource(val / _TINY_IMAGES, wnid_of.get, train.classes, said_by, train.words)}


def _read_lines(path: Path) -> list[str]:
    try:
        data = read_regular(path, _MAX_TEXT_BYTES)
    except OSError as error:
        raise UsageError(f"{error_text(error)}: it labels the images") from None
    return [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]


def _read_words(path: Path) -> dict[str, str]:
    try:
        return read_words(path)
    except OSError as error:
        raise UsageError(f"{error_text(error)}: it describes the classes") from None
