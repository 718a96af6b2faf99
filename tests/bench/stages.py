"""Where a worker's microseconds go, a picture: each stage alone, in one process, beside the whole.

    python tests/bench/stages.py [--data PHOTOS] [--rounds 7]

PHOTOS as for loader.py. Stages take turns; medians of the rounds. `bare decode` is the limit of loader.py on one core;
`whole, aligned rows` is the same work decoded into a target whose rows are aligned, which the loader avoids; `whole,
digests` the same work with a digest of each picture, which a client may ask for. At the end what comes once an epoch:
the order of as many records as ImageNet has.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.slab import Slab, SlotBatch, slot_bytes
from common.spec import StreamSpec
from loader import jpeg, sampler
from loader.augment import Scratch, TrainingBatch
from loader.dataset import Dataset
from loader.filler import Filler
from tests.bench import contenders, photos

BATCH, BATCHES, SLOTS = 128, 10, 6
IMAGENET = 1_281_167  # records
SPEC = StreamSpec(split="train", seed=0, crop=contenders.CROP, sigma=contenders.SIGMA)


class AlignedScratch(Scratch):
    """A target such as one would allocate for speed: every row begins at a multiple of 64 bytes."""

    def __init__(self) -> None:
        super().__init__()
        room = np.empty(self.picture.size + 64, np.uint8)
        start = -room.ctypes.data % 64
        self.picture = room[start : start + self.picture.size].reshape(self.picture.shape)
        self.rows = self.picture.reshape(self.rows.shape)


class Stages:
    """The work of a worker on one batch, whole and in parts."""

    def __init__(self, dataset: Dataset, scratch: Scratch) -> None:
        self._dataset, self._scratch, self._filler = dataset, scratch, Filler(dataset, scratch)
        self._slab = Slab.create(slot_bytes(SPEC, BATCH), SLOTS)
        self._jpegs = [dataset.read(record)[1] for record in range(BATCH * BATCHES)]

    def whole(self, number: int, *, digests: bool = False) -> None:
        self._filler.fill(SPEC, 0, number * BATCH, self._slot(number), digests=digests)

    def whole_digests(self, number: int) -> None:
        self.whole(number, digests=True)

    def draws(self, number: int) -> None:
        draws = sampler.draws_at(SPEC, self._dataset.colour, 0, number * BATCH, BATCH)
        TrainingBatch(SPEC, draws, self._slot(number).images, self._scratch)

    def read(self, number: int) -> None:
        for record in sampler.records_at(self._dataset.records, 0, 0, number * BATCH, BATCH).tolist():
            self._dataset.read(record)

    def decode(self, number: int) -> None:
        for packed in self._jpegs[number * BATCH : (number + 1) * BATCH]:
            jpeg.decode(packed, self._scratch.picture)

    def _slot(self, number: int) -> SlotBatch:
        return self._slab.batch(number % SLOTS, SPEC, BATCH)


def us_a_picture(stage: Callable[[int], None]) -> float:
    started = time.perf_counter()
    for number in range(BATCHES):
        stage(number)
    return (time.perf_counter() - started) / (BATCH * BATCHES) * 1e6


def order_ms(epoch: int) -> float:
    started = time.perf_counter()
    sampler.order(IMAGENET, 0, epoch)
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = photos.packed_records(given.data, Path(name), BATCH * BATCHES)
        with Dataset(data / "train.lmdb") as dataset:
            stages, aligned = Stages(dataset, Scratch()), Stages(dataset, AlignedScratch())
            whole: list[float] = []
            whole_aligned: list[float] = []
            whole_digests: list[float] = []
            parts: dict[str, list[float]] = {"draws": [], "read": [], "decode": []}
            bare: list[float] = []
            for _ in range(given.rounds):
                whole.append(us_a_picture(stages.whole))
                whole_aligned.append(us_a_picture(aligned.whole))
                whole_digests.append(us_a_picture(stages.whole_digests))
                for part, times in parts.items():
                    times.append(us_a_picture(getattr(stages, part)))
                bare.append(1e6 / contenders.bare_decoding(data, 1, 1.0))
    told = {part: statistics.median(times) for part, times in parts.items()}
    told["crop, flip, colour, bookkeeping"] = statistics.median(whole) - sum(told.values())
    told["whole"], told["bare decode"] = statistics.median(whole), statistics.median(bare)
    told["whole, aligned rows"] = statistics.median(whole_aligned)
    told["whole, digests"] = statistics.median(whole_digests)
    for part, us in told.items():
        sys.stdout.write(f"{part:32}{us:7.1f} us\n")
    orders = statistics.median(order_ms(epoch) for epoch in range(given.rounds))
    sys.stdout.write(f"{f'order of {IMAGENET:,} records':32}{orders:7.1f} ms\n")


if __name__ == "__main__":
    main()
