"""A slot goes back when the copies from it are over: not before, not much later, and always in the end."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.client.batch import Batch
from common.spec import STORED_SIZE, StreamSpec
from common.wire.slab import KEPT, Slab, slot_bytes
from tests.support.booked_memory import BookedMemory
from tests.support.race_detector import RaceDetector
from trainer.device.streams import Event
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import Pinned, tensor_over
from trainer.feeding.pixel_transform import PixelTransform, pixel_transforms
from trainer.recipes.layers import InputShape

CPU = torch.device("cpu")
OTHER = torch.device("cpu", 0)  # the same memory, but not equal to CPU: a second device as far as the feed knows
SPEC = StreamSpec(crop=16)
MEAN_HWC = np.zeros((STORED_SIZE, STORED_SIZE, 3), np.float32)
COUNT = 2


class Net:
    """The part of a net that a feed looks at."""

    input_dtype = torch.float32

    def __init__(self, *devices: torch.device) -> None:
        self.input_devices, self.loss_device = devices, devices[0]


class ReusedSlots:
    """A source that fills a slot again as soon as it has it back: it has no slot more than it must."""

    def __init__(self, detector: RaceDetector) -> None:
        self._detector = detector
        self.slab = Slab.create(slot_bytes(SPEC, COUNT), KEPT + 1)
        slots = [self.slab.batch(slot, SPEC, COUNT) for slot in range(self.slab.slots)]
        self.slab.close()  # its memory stays as long as its views
        self.free = [tensor_over(slot.images) for slot in slots]

    def batches(self, count: int) -> Iterator[Batch]:
        for number in range(count):
            slot = self.free.pop()
            with self._detector.on(self._detector.host):
                slot.fill_(number)
            labels, give_back = np.full(COUNT, number), partial(self.free.append, slot)
            yield Batch(0, number * COUNT, slot.numpy(), labels, labels, self.slab, give_back)

    @property
    def all_back(self) -> bool:
        return len(self.free) == self.slab.slots


def feed(
    detector: RaceDetector, memory: BookedMemory, *devices: torch.device
) -> Callable[[Iterable[Batch]], Iterator[DeviceBatch]]:
    net = Net(*devices)
    transforms = pixel_transforms(net, MEAN_HWC, InputShape(16), scale=1.0)  # type: ignore[arg-type]
    feed = Feed(net, streams=detector, pinned=Pinned(memory))  # type: ignore[arg-type]
    return partial(feed.batches, transforms=transforms)


def read(detector: RaceDetector, fed: Iterator[DeviceBatch]) -> Iterator[DeviceBatch]:
    """The batches fed, taken as work on the current streams."""
    with detector.watching():
        while True:
            with detector.on(detector.current(CPU), detector.current(OTHER)):
                batch = next(fed, None)
            if batch is None:
                return
            yield batch


@given(over=st.lists(st.booleans()), devices=st.sampled_from([(CPU,), (CPU, OTHER)]), count=st.integers(1, 6))
def test_whenever_copies_end_no_slot_goes_back_before_and_all_do(
    over: list[bool], devices: tuple[torch.device, ...], count: int
) -> None:
    detector = RaceDetector(is_over=lambda: bool(over) and over.pop())
    source = ReusedSlots(detector)
    fed = list(read(detector, feed(detector, BookedMemory(), *devices)(source.batches(count))))
    assert detector.races == []
    assert source.all_back
    transform = PixelTransform(MEAN_HWC, InputShape(16), 1.0, CPU)
    for number, batch in enumerate(fed):
        expected = transform(torch.full((COUNT, 16, 16, 3), number, dtype=torch.uint8))
        assert all(torch.equal(x_nchw, expected) for x_nchw in batch.pixels.values())
        assert batch.labels.tolist() == [number] * COUNT


class NeverWaiting(RaceDetector):
    def synchronize(self, event: Event) -> None:
        pass


def test_a_slot_that_goes_back_too_early_is_found() -> None:
    detector = NeverWaiting()
    source = ReusedSlots(detector)
    list(read(detector, feed(detector, BookedMemory(), CPU)(source.batches(4))))
    assert any("host" in race for race in detector.races)


def test_a_slot_goes_back_while_the_next_step_is_made_if_its_copies_are_over() -> None:
    detector = RaceDetector(is_over=lambda: True)
    source = ReusedSlots(detector)
    for _ in read(detector, feed(detector, BookedMemory(), CPU)(source.batches(4))):
        assert len(source.free) == KEPT  # the newest alone is out


def test_all_slots_go_back_when_the_feed_is_closed() -> None:
    detector = RaceDetector()
    source = ReusedSlots(detector)
    fed = feed(detector, BookedMemory(), CPU)(source.batches(4))
    assert isinstance(fed, Iterator)
    next(fed)
    next(fed)
    assert not source.all_back
    fed.close()  # type: ignore[attr-defined]
    assert source.all_back


def test_all_slots_go_back_when_the_loader_fails() -> None:
    detector = RaceDetector()
    source = ReusedSlots(detector)

    def failing() -> Iterator[Batch]:
        yield from source.batches(2)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(feed(detector, BookedMemory(), CPU)(failing()))
    assert source.all_back


def test_a_slab_that_cannot_be_pinned_feeds_the_same() -> None:
    detector = RaceDetector()
    source = ReusedSlots(detector)
    fed = list(feed(detector, BookedMemory("no more memory"), CPU)(source.batches(4)))
    assert [batch.pixels[CPU][0, 0, 0, 0].item() for batch in fed] == [0, 1, 2, 3]
    assert source.all_back


def test_streams_that_take_turns_share_the_buffers_and_lose_nothing() -> None:
    detector = RaceDetector()
    training, validation = ReusedSlots(detector), ReusedSlots(detector)
    batches = feed(detector, BookedMemory(), CPU)
    with detector.watching(), detector.on(detector.current(CPU)):
        trained = batches(training.batches(5))
        before = [next(trained), next(trained)]
        validated = list(batches(validation.batches(3)))
        assert validation.all_back
        assert not training.all_back
        fed = [*before, *trained]
    assert detector.races == []
    assert training.all_back
    for arrived, count in ((fed, 5), (validated, 3)):
        assert [batch.pixels[CPU][0, 0, 0, 0].item() for batch in arrived] == list(range(count))
