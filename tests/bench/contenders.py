"""References for the loader: bare decoding, and a torch DataLoader. Imported by the processes they start."""

import ctypes
import multiprocessing
import time
from collections.abc import Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE, CROP, SIGMA = 256, 227, 0.1
JPEGS = 500  # held in memory by each bare decoder: more than its caches, less than a nuisance

Images = npt.NDArray[np.uint8]  # n x 227 x 227 x 3


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a loader of others.py.

    files     JPEGs of 256 x 256
    colour    3 x 3, see `Dataset.colour`
    threads   or processes that decode
    folder    an empty one, for files in a format of its own
    """

    files: list[str]
    colour: npt.NDArray[np.float32]
    threads: int
    batch_size: int
    folder: Path


def counted(sizes: Iterator[int], seconds: float) -> tuple[int, float]:
    """Images that come in `seconds`, or until none is left, and how many a second.

    What had been made ahead is thrown away first.
    """
    for _ in range(12):
        next(sizes)
    images, started = 0, time.perf_counter()
    for size in sizes:
        images += size
        if time.perf_counter() - started >= seconds:
            break
    return images, images / (time.perf_counter() - started)


def bare_decoding(data: Path, processes: int, seconds: float) -> float:
    """Images a second that libjpeg-turbo alone decodes in `processes` processes at once, handle and target reused."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with context.Pool(processes, _keep_barrier, (barrier,)) as pool:
        return sum(pool.starmap(_decode_for, [(data, seconds)] * processes, chunksize=1))


_barrier: Barrier | None = None


def _keep_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _decode_for(data: Path, seconds: float) -> float:
    from tests.bench.photos import jpegs_of

    jpegs = jpegs_of(data, JPEGS)
    library = ctypes.CDLL(find_library("turbojpeg"))
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5,
    ]  # fmt: skip
    handle = library.tjInitDecompress()
    target = np.empty((SIZE, SIZE, 3), np.uint8)
    address = target.ctypes.data
    assert _barrier is not None
    _barrier.wait()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for jpeg in jpegs[:50]:
            assert library.tjDecompress2(handle, jpeg, len(jpeg), address, SIZE, 3 * SIZE, SIZE, 0, 0) == 0
        done += 50
        jpegs = jpegs[50:] + jpegs[:50]
    return done / (time.perf_counter() - started)


class Augmentation:
    """A JPEG's coloured crop, 227 x 227 x 3, as one writes it in Python: PyTurboJPEG and numpy. Pickle it unused."""

    def __init__(self, colour: npt.NDArray[np.floating[Any]]) -> None:
        self._colour = colour
        self._codec: Any = None

    def __call__(self, jpeg: bytes) -> npt.NDArray[np.uint8]:
        if self._codec is None:
            import turbojpeg

            self._codec = turbojpeg.TurboJPEG()
        image: npt.NDArray[np.uint8] = self._codec.decode(jpeg, pixel_format=0)
        top, left = np.random.randint(0, SIZE - CROP + 1, 2)
        image = image[top : top + CROP, left : left + CROP]
        if np.random.rand() < 0.5:
            image = image[:, ::-1]
        offset = np.rint((np.random.randn(3) * SIGMA) @ self._colour).astype(np.int16)
        coloured = np.clip(image.astype(np.int16) + offset, 0, 255)
        return np.asarray(coloured, np.uint8)


class TorchData:
    """The dataset one writes for a torch DataLoader: LMDB, and the augmentation above."""

    def __init__(self, data: Path) -> None:
        from loader.dataset import Dataset

        self._data = data
        with Dataset(data / "train.lmdb") as dataset:
            self._records = dataset.records
            self._augmented = Augmentation(dataset.colour)
        self._dataset: Any = None

    def __len__(self) -> int:
        return self._records

    def __getitem__(self, record: int) -> tuple[npt.NDArray[np.uint8], int]:
        if self._dataset is None:
            from loader.dataset import Dataset

            self._dataset = Dataset(self._data / "train.lmdb")
        label, jpeg = self._dataset.read(record)
        return self._augmented(jpeg), label


def torch_batches(data: Path, workers: int, batch_size: int) -> Iterator[int]:
    """Sizes of the batches that a torch DataLoader delivers, epoch after epoch."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        TorchData(data),  # type: ignore[arg-type]
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            yield len(images)
