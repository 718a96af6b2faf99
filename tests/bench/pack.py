"""Cost of packing an image, beside Pillow's bare decode, resize and encode of the same files.

    python tests/bench/pack.py [FOLDER] [--rounds 7]

One process, one thread, files in memory. Ours is all that a worker does: checks, decode, centre square, resize, encode,
decode of the stored JPEG, sums for mean and colours, checksum. Pillow's is bare: open, crop and resize of the same
square by the corresponding filters, save as JPEG of quality 90, 4:2:0. Rounds alternate.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from ctypes import c_int64
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from common.images import jpeg, pixels  # noqa: E402
from loader.packing import pack_worker  # noqa: E402
from loader.packing.sources import Labels  # noqa: E402

MADE, MADE_HEIGHT, MADE_WIDTH = 60, 375, 500  # the usual size in ILSVRC2012
CHUNK = 32


class InMemory:
    """A source whose reading costs nothing."""

    def __init__(self, files: list[bytes]) -> None:
        self._files = files
        self.classes, self.words = ("photo",), dict[str, str]()
        self.labels: Labels = np.zeros(len(files), np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, item: int) -> str:
        return f"photo {item}"

    def path(self, item: int) -> bytes:
        return self.name(item).encode()

    def read(self, item: int) -> bytes:
        return self._files[item]


def ours(files: list[bytes]) -> None:
    source, working_on = InMemory(files), c_int64()
    for first in range(0, len(files), CHUNK):
        items = np.arange(first, min(first + CHUNK, len(files)))
        packed = pack_worker.pack_chunk(source, working_on, items)
        assert packed.sums.records == len(items), packed.outcomes


def pillow(files: list[bytes]) -> None:
    for data in files:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        method = Image.Resampling.BOX if side >= 256 else Image.Resampling.BICUBIC
        small = picture.resize((256, 256), method, box=(left, top, left + side, top + side))
        small.save(io.BytesIO(), "JPEG", quality=90, subsampling=2)


def made() -> list[bytes]:
    """Photo-like: smooth shapes under noise, about 100 kB each."""
    return [jpeg.encode(_landscape(np.random.default_rng(seed)), 95) for seed in range(MADE)]


def _landscape(random: np.random.Generator) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    coarse = random.integers(40, 216, (8, 10, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((MADE_WIDTH, MADE_HEIGHT), Image.Resampling.BICUBIC), float)
    return np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def seconds(work: Callable[[list[bytes]], None], files: list[bytes]) -> float:
    began_s = time.process_time()
    work(files)
    return time.process_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack's rate an image and core, beside Pillow's.")
    parser.add_argument("folder", nargs="?", type=Path, help="photos, found at any depth; made if not given")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    found = sorted(arguments.folder.rglob("*.[jJ][pP]*[gG]"))[:1000] if arguments.folder else []
    files = [path.read_bytes() for path in found] if arguments.folder else made()
    if not files:
        parser.error(f"{arguments.folder} holds no .jpg or .jpeg")
    pixels.use_one_thread()
    works = {"pack": ours, "Pillow, bare": pillow}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        seconds(work, files[:CHUNK])
    for _ in range(arguments.rounds):
        for name, work in works.items():
            rates[name].append(len(files) / seconds(work, files))
    size = sum(map(len, files)) / len(files) / 1000
    write = sys.stdout.write
    write(f"{len(files)} photos of {size:.0f} kB, one core, {arguments.rounds} rounds in turn\n")
    for name, found_rates in rates.items():
        write(
            f"{name:14} {statistics.median(found_rates):6.0f} pictures a second and core"
            f"  ({min(found_rates):.0f} to {max(found_rates):.0f})\n"
        )
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    write(f"pack : Pillow  {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})\n")


if __name__ == "__main__":
    main()
