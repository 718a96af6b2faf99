"""ILSVRC as Kaggle distributes it, and the unpacked archives of ILSVRC2012: a folder a class to train, one to validate.

    ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG
    ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG ...   of which class each is says one of
    LOC_val_solution.csv                                       ImageId,PredictionString: the class, then boxes
    ILSVRC2012_devkit_t12.tar.gz, or its folder                see common/imagenet/devkit.py
    LOC_synset_mapping.txt                                     a class a line, and what it is called in words

SOURCE is the folder of the last three, or any further inside; they are looked for from there upwards.
"""

import os
from collections.abc import Callable
from pathlib import Path

from common.errors import UsageError
from common.imagenet.devkit import DEVKIT, Devkit, read_devkit
from loader.packing.lists import read_lines, read_words
from loader.packing.sources import FlatSource, FolderSource, Source, warn_of_test

_PICTURES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "")
_SOLUTION, _MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_SUFFIX = ".JPEG"


def find(folder: Path) -> Path | None:
    """The folder of train/ and a flat val/, or None."""
    for inner in _PICTURES:
        if (folder / inner / "train").is_dir():
            pictures = Path(os.path.abspath(folder / inner))
            return pictures if pictures.name == "CLS-LOC" or _is_flat(pictures / "val") else None
    return None


def _is_flat(val: Path) -> bool:
    if not val.is_dir():
        return False
    return any(path.name.startswith("ILSVRC2012_val_") for path in val.iterdir())


def sources(pictures: Path) -> dict[str, Source]:
    """Sources of "train" and, if it is there, "val". Raises UsageError naming what is missing."""
    mapping = _beside(pictures, _MAPPING)
    words = read_words(mapping, " ") if mapping else {}
    train = FolderSource(pictures / "train", words=words)
    warn_of_test(pictures)
    if not (pictures / "val").is_dir():
        return {"train": train}
    if not _is_flat(pictures / "val"):
        return {"train": train, "val": FolderSource(pictures / "val", train.classes, words=words)}
    class_of, said_by = _classes_of_val(pictures)
    return {"train": train, "val": FlatSource(pictures / "val", class_of, train.classes, said_by, words)}


def _classes_of_val(pictures: Path) -> tuple[Callable[[str], str | None], str]:
    """The class of a file's name, and which file says so."""
    solution = _beside(pictures, _SOLUTION)
    if solution is not None:
        rows = (line.partition(",") for line in read_lines(solution))
        wnid_of = {image: told.split()[0] for image, _, told in rows if told.strip()}
        return lambda name: wnid_of.get(name.removesuffix(_SUFFIX)), str(solution)
    for name in (DEVKIT, f"{DEVKIT}.tar.gz"):
        found = _beside(pictures, name)
        if found is not None:
            return _of_devkit(read_devkit(found)), str(found)
    raise UsageError(
        f"{pictures / 'val'} holds pictures, not folders of them: {_SOLUTION} or {DEVKIT}.tar.gz, which say of which"
        f" class each is, are neither in {pictures} nor above"
    )


def _of_devkit(devkit: Devkit) -> Callable[[str], str | None]:
    return lambda name: devkit.truth[number - 1] if (number := devkit.number_of(name)) else None


def _beside(pictures: Path, name: str) -> Path | None:
    """In the folder of the pictures, or in one of the three that Kaggle puts around it."""
    folders = [pictures, *pictures.parents[:3]] if pictures.name == "CLS-LOC" else [pictures]
    return next((folder / name for folder in folders if (folder / name).exists()), None)
