"""On a GPU: slots are copied in place, and recycled no sooner than that is done."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.spec import STORED_SIZE, StreamSpec
from common.torch import StreamDataset
from common.wire.slab import KEPT, Slab, slot_bytes
from tests.support.processes import LoaderProcess
from trainer.device.streams import DeviceStream, Event, Streams
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import HostMemory, Pinned, tensor_over
from trainer.feeding.pixel_transform import pixel_transforms
from trainer.recipes.layers import InputShape

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SPEC = StreamSpec(crop=64)
COUNT = 16
MEAN_HWC = np.full((STORED_SIZE, STORED_SIZE, 3), 120, np.float32)
DELAY_CYCLES = 20_000_000  # some 10 ms


class SlowCopies(Streams):
    """Each copy begins late, so that a slot given back too early has long been filled again.

    hasty   the host takes every event for passed
    """

    def __init__(self, hasty: bool = False) -> None:
        self._hasty = hasty

    @contextlib.contextmanager
    def on(self, *streams: DeviceStream) -> Iterator[None]:
        with super().on(*streams):
            self.delay(streams[0], DELAY_CYCLES)
            yield

    def passed(self, event: Event) -> bool:
        return self._hasty or super().passed(event)

    def synchronize(self, event: Event) -> None:
        if not self._hasty:
            super().synchronize(event)


def feed(
    pinned: Pinned, *devices: torch.device, streams: Streams | None = None
) -> Callable[[Iterable[Batch]], Iterator[DeviceBatch]]:
    net = SimpleNamespace(input_devices=devices, input_dtype=torch.float32, loss_device=devices[0])
    transforms = pixel_transforms(net, MEAN_HWC, InputShape(64), scale=1.0)
    feed = Feed(net, streams=streams or Streams(), pinned=pinned)
    return partial(feed.batches, transforms=transforms)


class ReusedSlots:
    """A source that spoils a slot as soon as it has it back, and has no slot more than it must."""

    def __init__(self) -> None:
        self.slab = Slab.create(slot_bytes(SPEC, COUNT), KEPT + 1)
        self._free = [self.slab.batch(slot, SPEC, COUNT).images for slot in range(self.slab.slots)]

    def batches(self, count: int) -> Iterator[Batch]:
        for number in range(count):
            images = self._free.pop()
            images[:] = number

            def give_back(images: np.ndarray = images) -> None:
                images[:] = 255
                self._free.append(images)

            labels = np.full(COUNT, number)
            yield Batch(0, number * COUNT, images, labels, labels, self.slab, give_back)


def numbers(fed: Iterator[DeviceBatch]) -> list[list[float]]:
    """The pixel values that came with each batch."""
    arrived = [batch.pixels[GPU][:, :, :16, :16].clone() for batch in fed]  # folded by four
    return [(x_nchw + 120).unique().tolist() for x_nchw in arrived]  # type: ignore[no-untyped-call]


def test_a_slab_is_pinned_where_it_lies_until_its_last_batch_goes() -> None:
    pinned, source = Pinned(), ReusedSlots()
    view = tensor_over(np.frombuffer(source.slab.memory, np.uint8))
    batch = next(source.batches(1))
    images = pinned.images(batch, GPU)
    assert images.data_ptr() == batch.images.ctypes.data
    assert images.is_pinned()
    assert view.is_pinned()
    del source
    assert view.is_pinned()
    batch.release()
    assert not view.is_pinned()


def test_what_cuda_will_not_register_is_copied_and_its_error_meets_nobody_else() -> None:
    source = ReusedSlots()
    memory = HostMemory()
    first = np.frombuffer(source.slab.memory, np.uint8)[: 1 << 12]
    assert memory.register(first, GPU) == ""
    try:
        assert memory.register(first, GPU) != ""
        assert (torch.ones(1000, device=GPU) * 2).sum().item() == 2000
        assert numbers(feed(Pinned(), GPU)(source.batches(6))) == [[number] for number in range(6)]
    finally:
        memory.unregister(first, GPU)


def test_slots_are_not_recycled_while_slow_copies_are_under_way() -> None:
    fed = feed(Pinned(), GPU, streams=SlowCopies())(ReusedSlots().batches(12))
    assert numbers(fed) == [[number] for number in range(12)]


def test_a_host_that_does_not_wait_for_the_copies_gets_spoilt_pixels() -> None:
    fed = feed(Pinned(), GPU, streams=SlowCopies(hasty=True))(ReusedSlots().batches(12))
    assert numbers(fed) != [[number] for number in range(12)]


@pytest.mark.parametrize("transport", ["slab", "frames"])
def test_batches_of_a_real_loader_reach_the_gpu_as_they_reach_a_cpu(
    packed: Path, tmp_path: Path, transport: str
) -> None:
    with LoaderProcess(packed, tmp_path) as service:
        with LoaderClient(service.endpoint, transport=transport) as loader:  # type: ignore[arg-type]
            stream = loader.stream(SPEC, COUNT)
            expected = list(feed(Pinned(), CPU)(stream.batches(range(3), lend=True)))
            fed = list(feed(Pinned(), GPU, streams=SlowCopies())(stream.batches(range(3), lend=True)))
    assert len(fed) == len(expected)
    for on_gpu, on_cpu in zip(fed, expected, strict=True):
        assert (on_gpu.batch.epoch, on_gpu.batch.first) == (on_cpu.batch.epoch, on_cpu.batch.first)
        assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)
        assert torch.equal(on_gpu.pixels[GPU].cpu(), on_cpu.pixels[CPU])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
def test_one_slot_goes_to_two_gpus() -> None:
    other = torch.device("cuda", 1)
    fed = list(feed(Pinned(), GPU, other, streams=SlowCopies())(ReusedSlots().batches(6)))
    for number, batch in enumerate(fed):
        for x_nchw in batch.pixels.values():
            assert ((x_nchw[:, :, :64, :64] + 120) == number).all()


def test_a_dataloader_pins_a_stream_s_batches_in_their_memory_order(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path) as service:
        with StreamDataset(service.endpoint, SPEC, batch_size=COUNT) as dataset:
            (pinned, _) = next(iter(DataLoader(dataset, batch_size=None, pin_memory=True)))
            dataset.set_epoch(0)
            (plain, _) = next(iter(dataset))
    assert pinned.is_pinned()
    assert pinned.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pinned.to(GPU, non_blocking=True).cpu(), plain)
