"""CIFAR-10 as its authors publish it, read in place: the unpacked folder of cifar-10-binary.tar.gz.

In the folder:
    data_batch_1.bin ... data_batch_5.bin, test_batch.bin     records of a label's byte and 3 x 32 x 32 pixels: the red
                                                              ones row by row, then the green, then the blue
    batches.meta.txt                                          the class names, one a line

The test images are the validation set.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import BadImage, UsageError
from common.untrusted import open_regular, read_regular
from loader.packing.sources import NO_WORDS, Source

_SIDE = 32  # pixels
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE
_NAMES = "batches.meta.txt"
_FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "val": ["test_batch.bin"]}
_MAX_NAMES_BYTES = 1 << 20
_HEADER = f"P6 {_SIDE} {_SIDE} 255\n".encode()  # of a PPM, the plainest of image files


def is_cifar(folder: Path) -> bool:
    return (folder / _FILES["train"][0]).is_file()


def refuse_pickles(folder: Path) -> None:
    for names in (("data_batch_1", "batches.meta"), ("train", "meta")):  # CIFAR-10, CIFAR-100
        if all((folder / name).is_file() for name in names):
            raise UsageError(
                f"{folder} holds pickles, CIFAR's version for Python, which are not read: reading one can run any code."
                f" Fetch the binary version, cifar-10-binary.tar.gz"
            )


def batches(folder: Path) -> dict[str, Source]:
    """Sources of "train" and "val". Raises UsageError if a file is missing, cut off or of other classes."""
    try:
        classes = tuple(read_regular(folder / _NAMES, _MAX_NAMES_BYTES).decode().split())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder / _NAMES}, with the classes' names, cannot be read: {error}") from None
    return {split: CifarSource([folder / name for name in names], classes) for split, names in _FILES.items()}


class CifarSource:
    def __init__(self, files: list[Path], classes: tuple[str, ...]) -> None:
        self.classes, self.words = classes, NO_WORDS
        self._files = files
        of_files = [_labels(path) for path in files]
        self.labels: npt.NDArray[np.int32] = np.concatenate(of_files).astype(np.int32)
        self._ends = np.cumsum([len(labels) for labels in of_files])
        if self.labels.max(initial=0) >= len(classes):
            raise UsageError(f"{files[0].parent} has label {self.labels.max()}, {_NAMES} but {len(classes)} classes")

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, item: int) -> str:
        path, record = self._place(item)
        return f"{path.name}/{record:05d}"

    def path(self, item: int) -> bytes:
        return self.name(item).encode()

    def read(self, item: int) -> bytes:
        path, record = self._place(item)
        with open_regular(path) as file:
            file.seek(record * _RECORD_BYTES + 1)
            planes = file.read(_RECORD_BYTES - 1)
        if len(planes) < _RECORD_BYTES - 1:
            raise BadImage(f"{path.name} ends in the middle of it")
        rgb_chw = np.frombuffer(planes, np.uint8).reshape(3, _SIDE, _SIDE)
        return _HEADER + rgb_chw.transpose(1, 2, 0).tobytes()

    def _place(self, item: int) -> tuple[Path, int]:
        number = int(np.searchsorted(self._ends, item, side="right"))
        return self._files[number], item - (int(self._ends[number - 1]) if number else 0)


def _labels(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with open_regular(path) as file:
            records = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if len(records) % _RECORD_BYTES:
        raise UsageError(f"{path} has {len(records):,} bytes, no multiple of {_RECORD_BYTES:,}: it is cut off")
    return np.array(records[::_RECORD_BYTES])
