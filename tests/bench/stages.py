"""A worker's microseconds per image: each stage alone, in one process, beside the whole.

    python tests/bench/stages.py [--data PHOTOS] [--rounds 7]

PHOTOS as for loader.py. Stages take turns, batch by batch, so that a restless machine hits all alike; medians. `bare
decode` is the limit of loader.py on one core; `whole, aligned rows` is the same work decoded into a target whose rows
are aligned, and `whole, passes of numpy` with noise that is clipped and added in two or three passes, both of which the
loader avoids; `whole, digests` is the same work with a digest of each image, which a client may ask for; `whole,
kept` is that on images that were kept decoded. At the end what comes once an epoch: the order of as many records as
ImageNet has.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.images import jpeg
from common.spec import StreamSpec
from common.wire.slab import Slab, SlotBatch, slot_bytes
from loader.dataset import Dataset
from loader.workers import augment, sampler
from loader.workers.augment import Scratch, TrainingBatch
from loader.workers.fill import Filler
from loader.workers.kept import KeptImages
from loader.workers.sampler import Floats
from tests.bench import contenders, photos

BATCH, BATCHES, SLOTS = 128, 10, 6
IMAGENET = 1_281_167  # records
SPEC = StreamSpec(split="train", seed=0, crop=contenders.CROP, sigma=contenders.SIGMA)


class AlignedScratch(Scratch):
    """A target such as one would allocate for speed: every row begins at a multiple of 64 bytes."""

    def __init__(self) -> None:
        super().__init__()
        room = np.empty(self.image.size + 64, np.uint8)
        start = -room.ctypes.data % 64
        self.image = room[start : start + self.image.size].reshape(self.image.shape)


class PassesOfNumpy:
    """SaturatingNoise for bytes that wrap: clip so that the sum stays within 0..255, then add."""

    def __init__(self, offset: Floats, _shape: tuple[int, ...]) -> None:
        shift = np.clip(np.rint(offset), -255, 255).astype(np.int16)
        self._falls, self._rises = np.any(shift < 0, axis=1), np.any(shift > 0, axis=1)
        self._low = np.tile(np.maximum(-shift, 0).astype(np.uint8), contenders.CROP)
        self._high = np.tile((255 - np.maximum(shift, 0)).astype(np.uint8), contenders.CROP)
        self._add = np.tile((shift & 255).astype(np.uint8), contenders.CROP)

    def __call__(self, index: int, source: augment.Bytes, target: augment.Pixels) -> None:
        source, target = (image.reshape(len(image), -1) for image in (source, target))  # views
        if self._falls[index]:
            source = np.maximum(source, self._low[index], out=target)
        if self._rises[index]:
            source = np.minimum(source, self._high[index], out=target)
        np.add(source, self._add[index], out=target)


class Stages:
    """The work of a worker on one batch, whole and in parts."""

    def __init__(self, dataset: Dataset, scratch: Scratch) -> None:
        self._dataset, self._scratch, self._filler = dataset, scratch, Filler(dataset, scratch)
        self._slab = Slab.create(slot_bytes(SPEC, BATCH), SLOTS)
        kept = KeptImages.create(dataset.records)
        kept.allow(dataset.records)
        self._keeping = Filler(dataset, scratch, kept)
        for number in range(BATCHES):
            self.whole_kept(number)
            self._keeping.publish()
        self._jpegs = [dataset.read(record)[1] for record in range(BATCH * BATCHES)]

    def whole(self, number: int, *, digests: bool = False) -> None:
        self._filler.fill(SPEC, 0, number * BATCH, self._slot(number), digests=digests)

    def whole_kept(self, number: int) -> None:
        self._keeping.fill(SPEC, 0, number * BATCH, self._slot(number), digests=False)

    def whole_digests(self, number: int) -> None:
        self.whole(number, digests=True)

    def whole_passes_of_numpy(self, number: int) -> None:
        with mock.patch.object(augment, "SaturatingNoise", PassesOfNumpy):
            self.whole(number)

    def draws(self, number: int) -> None:
        draws = sampler.draws_at(SPEC, self._dataset.colour, 0, number * BATCH, BATCH)
        TrainingBatch(SPEC, draws, self._slot(number).images, self._scratch)

    def read(self, number: int) -> None:
        for record in sampler.order(self._dataset.records, 0, 0)[number * BATCH :][:BATCH].tolist():
            self._dataset.read(record)

    def decode(self, number: int) -> None:
        for packed in self._jpegs[number * BATCH : (number + 1) * BATCH]:
            jpeg.decode(packed, self._scratch.image)

    def _slot(self, number: int) -> SlotBatch:
        return self._slab.batch(number % SLOTS, SPEC, BATCH)


def us_a_picture(stage: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    stage(number)
    return (time.perf_counter() - started) / BATCH * 1e6


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
            parts = {"draws": stages.draws, "read": stages.read, "decode": stages.decode}
            wholes = {
                "whole": stages.whole,
                "whole, aligned rows": aligned.whole,
                "whole, passes of numpy": stages.whole_passes_of_numpy,
                "whole, digests": stages.whole_digests,
                "whole, kept": stages.whole_kept,
            }
            times: dict[str, list[float]] = {stage: [] for stage in (*parts, *wholes)}
            bare: list[float] = []
            for _ in range(given.rounds):
                for number in range(BATCHES):
                    for stage, work in (parts | wholes).items():
                        times[stage].append(us_a_picture(work, number))
                bare.append(1e6 / contenders.bare_decoding(data, 1, 1.0))
    medians = {stage: statistics.median(each) for stage, each in times.items()}
    told = {part: medians[part] for part in parts}
    told["crop, flip, colour, bookkeeping"] = medians["whole"] - sum(told.values())
    told |= {"bare decode": statistics.median(bare)} | {whole: medians[whole] for whole in wholes}
    for part, us in told.items():
        sys.stdout.write(f"{part:32}{us:7.1f} us\n")
    orders = statistics.median(order_ms(epoch) for epoch in range(given.rounds))
    sys.stdout.write(f"{f'order of {IMAGENET:,} records':32}{orders:7.1f} ms\n")


if __name__ == "__main__":
    main()
