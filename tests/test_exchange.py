"""Every access of a step is in order, on one device and on two, and every kind of wait is needed for that."""

from dataclasses import replace

import pytest
import torch

from tests.race_detector import RaceDetector
from trainer.exchange import Link, Route
from trainer.recipe import SOURCE
from trainer.streams import Stream, Streams
from trainer.two_halves import TwoHalves

CPU = torch.device("cpu")
OTHER = torch.device("cpu", 0)  # the same memory, but not equal to CPU: a second device as far as the schedule knows
NARROW = replace(SOURCE, width=1 / 16, classes=5)


def races(devices: tuple[torch.device, torch.device], leave_out: str = "") -> RaceDetector:
    """Two steps and a prediction of growing batches, the caller writing pixels before and reading gradients after."""
    detector = RaceDetector(leave_out)
    net = TwoHalves(NARROW, seed=0, devices=devices, streams=detector)
    pixels = [torch.zeros(3, 3, 227, 227) for _ in devices]
    with detector.watching():
        for step in range(2):
            for x, device in zip(pixels, devices, strict=True):
                with detector.on(detector.current(device)):
                    x.normal_(0, 60)
            net.train_step((pixels[0][: step + 1], pixels[1][: step + 1]), torch.zeros(step + 1).long(), step=step)
            for half in net._halves:
                with detector.on(detector.current(half.device)):
                    for parameter in half.parameters:
                        assert parameter.gradient is not None
                        parameter.weight.data.sub_(parameter.gradient, alpha=1e-4)
        net.predict((pixels[0], pixels[1]))
    return detector


@pytest.mark.parametrize("devices", [(CPU, CPU), (CPU, OTHER)], ids=["one device", "two devices"])
def test_no_access_of_a_step_is_a_race(devices: tuple[torch.device, torch.device]) -> None:
    assert races(devices).races == []


@pytest.mark.parametrize("kind", ["ready", "free", "arrived", "sent", "begin 0", "begin 1", "end 0", "end 1"])
def test_without_any_one_kind_of_wait_there_is_a_race(kind: str) -> None:
    detector = races((CPU, OTHER), leave_out=kind)
    assert detector.waits_left_out > 0
    assert detector.races


@pytest.mark.parametrize("kind", ["ready", "arrived", "sent", "begin 0", "end 0"])
def test_one_device_needs_those_waits_too(kind: str) -> None:
    assert races((CPU, CPU), leave_out=kind).races


def test_every_single_ready_and_arrived_is_needed() -> None:
    # Not every `free` and `sent` alone: inside a step, later exchanges imply the earlier ones'.
    net = TwoHalves(NARROW, seed=0, devices=(CPU, OTHER))
    links = [link for exchange in net._exchanges.values() for link in exchange.links]
    names = [event.name for link in links for event in (link._ready, link._arrived)]
    assert len(names) == 2 * 2 * (2 + 2 + 2 + 1)
    assert [name for name in names if not races((CPU, OTHER), leave_out=name).races] == []


def link(streams: Streams) -> tuple[Link, Stream, Stream]:
    source, target = streams.stream(CPU, "source"), streams.stream(CPU, "target")
    return Link(streams, Route.between(streams, CPU, CPU, "route"), source, target, "link"), source, target


def test_a_link_brings_the_tensor_and_keeps_its_layout() -> None:
    channels, _, _ = link(Streams())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 4, 5, 6).contiguous(memory_format=layout)
        channels.send(x)
        received = channels.receive()
        channels.release()
        channels.settle()
        assert torch.equal(received, x)
        assert received.stride() == x.stride()
        assert received.data_ptr() != x.data_ptr()


def test_a_smaller_batch_uses_the_same_receive_buffer_and_a_larger_one_makes_it_grow() -> None:
    channels, _, _ = link(Streams())
    addresses = []
    for count in (4, 2, 4, 8, 3):
        x = torch.randn(count, 1000)
        channels.send(x)
        received = channels.receive()
        assert torch.equal(received, x)
        addresses.append(received.data_ptr())
        channels.release()
        channels.settle()
    assert addresses[0] == addresses[1] == addresses[2]
    assert addresses[3] == addresses[4]


def test_the_sent_tensor_is_kept_until_the_copy_has_been_waited_for() -> None:
    detector = RaceDetector()
    channels, source, _ = link(detector)
    with detector.watching(), detector.on(source):
        channels.send(torch.ones(1 << 16))
        assert channels._sending is not None
        channels.settle()
        torch.ones(1)
    assert channels._sending is None
    assert detector.races == []
