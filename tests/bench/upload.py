"""Host cost of a batch on its way to the GPUs: read in its slot, or by way of a pinned copy.

    python tests/bench/upload.py [--gpus 1] [--batch 128] [--crop 227] [--rounds 5] [--batches 40]

The slab is real, its pixels are noise. Both ways take turns. After each batch all GPUs are waited for: `host` is how
long the host is held up, `CPU` what all its threads took, `device` how long the GPUs then still need for copies and
transform.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch

from common.client.batch import Batch
from common.spec import STORED_SIZE, StreamSpec
from common.wire.slab import Slab, slot_bytes
from trainer.device.streams import Streams
from trainer.feeding.feed import Feed
from trainer.feeding.pinned import HostMemory, Pinned
from trainer.feeding.pixel_transform import pixel_transforms
from trainer.recipes.layers import InputShape

SLOTS = 6


class NoRegistration(HostMemory):
    """Stand-in for a CUDA that refuses."""

    def register(self, memory: npt.NDArray[np.uint8], device: torch.device) -> str:
        return "not asked to"


class Way:
    """Feeds batches from a slab of its own, endlessly."""

    def __init__(self, memory: HostMemory, gpus: int, batch_size: int, crop: int) -> None:
        spec, devices = StreamSpec(crop=crop), tuple(torch.device("cuda", gpu) for gpu in range(gpus))
        net = SimpleNamespace(input_devices=devices, input_dtype=torch.float32, loss_device=devices[0])
        mean_hwc = np.full((STORED_SIZE, STORED_SIZE, 3), 120, np.float32)
        transforms = pixel_transforms(net, mean_hwc, InputShape(crop), scale=1.0)
        feed = Feed(net, streams=Streams(), pinned=Pinned(memory))
        self._slab = Slab.create(slot_bytes(spec, batch_size), SLOTS)
        self._devices = devices
        self._slots = [self._slab.batch(slot, spec, batch_size).images for slot in range(SLOTS)]
        for images in self._slots:
            images[:] = np.random.default_rng(0).integers(0, 256, images.shape[1:], np.uint8)
        self._fed = feed.batches(self._source(), transforms)
        self.host_ms, self.cpu_ms, self.device_ms = list[float](), list[float](), list[float]()

    def feed(self, batches: int) -> None:
        for _ in range(batches):
            start_s, cpu_s = time.perf_counter(), time.process_time()
            next(self._fed)
            done_s, cpu_done_s = time.perf_counter(), time.process_time()
            for device in self._devices:
                torch.cuda.synchronize(device)
            self.device_ms.append(1000 * (time.perf_counter() - done_s))
            self.host_ms.append(1000 * (done_s - start_s))
            self.cpu_ms.append(1000 * (cpu_done_s - cpu_s))

    def forget(self) -> None:
        for times_ms in (self.host_ms, self.cpu_ms, self.device_ms):
            times_ms.clear()

    def _source(self) -> Iterator[Batch]:
        for number, images in enumerate(itertools.cycle(self._slots)):
            labels = np.zeros(len(images), np.int64)
            yield Batch(0, number * len(images), images, labels, labels, self._slab)


def median_and_spread(times_ms: list[float]) -> str:
    low, middle, high = (np.percentile(times_ms, percent) for percent in (10, 50, 90))
    return f"{middle:7.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--crop", type=int, default=227)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40, help="batches a round")
    given = parser.parse_args()
    if torch.cuda.device_count() < given.gpus:
        sys.exit(f"{given.gpus} GPUs are wanted, there are {torch.cuda.device_count()} (--gpus)")
    memories = {"in the slot": HostMemory(), "pinned copy": NoRegistration()}
    ways = {name: Way(memory, given.gpus, given.batch, given.crop) for name, memory in memories.items()}
    for turn in range(given.rounds + 1):
        for way in ways.values():
            way.feed(given.batches)
            if turn == 0:  # a warm-up
                way.forget()
    mib = given.batch * given.crop**2 * 3 / 2**20
    sys.stdout.write(f"batches of {mib:.1f} MiB to {given.gpus} GPUs; ms a batch, median and 10 to 90 %:\n")
    for name, way in ways.items():
        columns = {"host": way.host_ms, "CPU": way.cpu_ms, "device": way.device_ms}
        told = "   ".join(f"{column} {median_and_spread(times_ms)}" for column, times_ms in columns.items())
        sys.stdout.write(f"{name:12s} {told}\n")
    ratio = statistics.median(ways["pinned copy"].cpu_ms) / statistics.median(ways["in the slot"].cpu_ms)
    sys.stdout.write(f"the pinned copy takes {ratio:.1f} times the CPU time\n")


if __name__ == "__main__":
    main()
