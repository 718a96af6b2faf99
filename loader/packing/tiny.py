"""Tiny ImageNet as it is distributed.

wnids.txt                          the classes
words.txt                          what they are called, and all of WordNet with them
train/<wnid>/images/*.JPEG         beside <wnid>_boxes.txt
val/images/*.JPEG                  of which class each is says val/val_annotations.txt
test/images/*.JPEG                 of no known class: left out
"""

from pathlib import Path

from loader.packing.lists import read_lines, read_words
from loader.packing.sources import FlatSource, FolderSource, Source, warn_of_test

_IMAGES, _ANNOTATIONS, _WORDS = "images", "val_annotations.txt", "words.txt"


def is_tiny(folder: Path) -> bool:
    return (folder / "wnids.txt").is_file() and any((folder / "train").glob(f"*/{_IMAGES}"))


def sources(folder: Path) -> dict[str, Source]:
    """Sources of "train" and, if it is there, "val". Raises UsageError naming what is missing."""
    words = read_words(folder / _WORDS, "\t") if (folder / _WORDS).exists() else {}
    train = FolderSource(folder / "train", inside=_IMAGES)
    train.words = {name: words[name] for name in train.classes if name in words}
    warn_of_test(folder)
    val = folder / "val"
    if not val.is_dir():
        return {"train": train}
    if not (val / _ANNOTATIONS).exists():  # sorted into classes, as many do
        inside = _IMAGES if any(val.glob(f"*/{_IMAGES}")) else ""
        return {"train": train, "val": FolderSource(val, train.classes, inside, train.words)}
    rows = (line.split("\t") for line in read_lines(val / _ANNOTATIONS))
    wnid_of = {row[0]: row[1] for row in rows if len(row) > 1}
    said_by = str(val / _ANNOTATIONS)
    return {"train": train, "val": FlatSource(val / _IMAGES, wnid_of.get, train.classes, said_by, train.words)}
