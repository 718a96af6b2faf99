"""Every access of a step is in order, on one device and on two, and every kind of wait is needed for that."""

from dataclasses import replace

import pytest
import torch

from tests.support.race_detector import RaceDetector
from trainer.device.streams import DeviceStream, Event, Streams
from trainer.network.exchange import Link, Route, Way, Ways
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import SOURCE

CPU = torch.device("cpu")
OTHER = torch.device("cpu", 0)  # the same memory, but not equal to CPU: a second device as far as the schedule knows
SIDE = 67  # of the pictures: conv5 makes maps of one pixel
NARROW = replace(SOURCE, width=1 / 16, classes=5, input_size=SIDE, crop=SIDE)


ONE_WAY: list[Ways] = [("direct", "direct"), ("host", "host")]
ANY_WAYS: list[Ways] = [*ONE_WAY, ("direct", "host"), ("host", "direct")]


def races(devices: tuple[torch.device, torch.device], ways: Ways, leave_out: str = "") -> RaceDetector:
    """Two steps and a prediction of growing batches, the caller writing pixels before and reading gradients after.

    If a wait is left out, up to the step of the first race.
    """
    detector = RaceDetector(leave_out)
    net = TwoHalves(NARROW, seed=0, devices=devices, ways=ways, streams=detector)
    pixels = [torch.zeros(3, 3, SIDE, SIDE) for _ in devices]
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
            if leave_out and detector.races:
                return detector
        net.predict((pixels[0], pixels[1]))
    return detector


@pytest.mark.parametrize("ways", ANY_WAYS, ids="-".join)
@pytest.mark.parametrize("devices", [(CPU, CPU), (CPU, OTHER)], ids=["one device", "two devices"])
def test_no_access_of_a_step_is_a_race(devices: tuple[torch.device, torch.device], ways: Ways) -> None:
    assert races(devices, ways).races == []


@pytest.mark.parametrize("ways", ONE_WAY, ids="-".join)
@pytest.mark.parametrize("kind", ["ready", "free", "arrived", "sent", "begin 0", "begin 1", "end 0", "end 1"])
def test_without_any_one_kind_of_wait_there_is_a_race(kind: str, ways: Ways) -> None:
    detector = races((CPU, OTHER), ways, leave_out=kind)
    assert detector.waits_left_out > 0
    assert detector.races


@pytest.mark.parametrize("ways", ONE_WAY, ids="-".join)
@pytest.mark.parametrize("kind", ["ready", "arrived", "sent", "begin 0", "end 0"])
def test_one_device_needs_those_waits_too(kind: str, ways: Ways) -> None:
    assert races((CPU, CPU), ways, leave_out=kind).races


def events(ways: Ways, kinds: tuple[str, ...]) -> list[str]:
    """Names of the events of these kinds of every link."""
    net = TwoHalves(NARROW, seed=0, devices=(CPU, OTHER), ways=ways)
    links = [link for exchange in net._exchanges.values() for link in exchange.links]
    named = [event.name for link in links for kind in kinds if isinstance(event := getattr(link, f"_{kind}"), Event)]
    assert len(named) == len(kinds) * 2 * (2 + 2 + 2 + 1)
    return named


@pytest.mark.parametrize(("way", "kinds"), [("direct", ("ready", "arrived")), ("host", ("staged",))])
def test_each_single_one_of_these_waits_is_needed(way: Way, kinds: tuple[str, ...]) -> None:
    # Not every `free`, `sent` and `emptied` alone: inside a step, later exchanges imply the earlier ones'.
    names = events((way, way), kinds)
    assert [name for name in names if not races((CPU, OTHER), (way, way), leave_out=name).races] == []


@pytest.mark.parametrize("ways", ANY_WAYS, ids="-".join)
def test_each_half_sends_by_its_own_way(ways: Ways) -> None:
    net = TwoHalves(NARROW, seed=0, devices=(CPU, OTHER), ways=ways)
    for exchange in net._exchanges.values():
        for target, link in [*exchange.activation.items(), *exchange.gradient.items()]:
            assert link._route.way == ways[1 - target]
            assert link._route.out.device == (CPU, OTHER)[1 - target]


def races_of_a_link_alone(way: Way, target: torch.device, leave_out: str = "") -> RaceDetector:
    """Three tensors, the last two larger than the first, over a link whose halves know nothing else of each other."""
    detector = RaceDetector(leave_out)
    link, source, target_stream = make_link(detector, way, target)
    with detector.watching():
        for count in (1, 2, 2):
            with detector.on(source):
                x = torch.ones(count, 100)
            link.send(x)
            with detector.on(target_stream):
                link.receive().sum()
            link.release()
            del x
            link.settle()
            with detector.on(source):
                torch.ones(1)
    return detector


NEEDED: dict[Way, tuple[str, ...]] = {
    "direct": ("ready", "free", "arrived", "sent"),
    "host": ("ready", "free", "arrived", "sent", "staged", "emptied"),
}


@pytest.mark.parametrize("target", [CPU, OTHER], ids=["one device", "two devices"])
@pytest.mark.parametrize("way", NEEDED)
def test_a_link_alone_is_free_of_races(way: Way, target: torch.device) -> None:
    assert races_of_a_link_alone(way, target).races == []


@pytest.mark.parametrize("target", [CPU, OTHER], ids=["one device", "two devices"])
@pytest.mark.parametrize(("way", "kind"), [(way, kind) for way, kinds in NEEDED.items() for kind in kinds])
def test_a_link_alone_needs_each_of_its_waits(way: Way, kind: str, target: torch.device) -> None:
    detector = races_of_a_link_alone(way, target, leave_out=kind)
    assert detector.waits_left_out > 0
    assert detector.races


def test_both_ways_bring_the_same_bits() -> None:
    draws = torch.Generator().manual_seed(0)
    x, labels = 60 * torch.randn(3, 3, SIDE, SIDE, generator=draws), torch.randint(5, (3,), generator=draws)
    nets = [TwoHalves(NARROW, seed=0, devices=(CPU, OTHER), ways=ways) for ways in ANY_WAYS]
    for step, count in enumerate((2, 3, 1)):
        losses = [net.train_step((x[:count], x[:count]), labels[:count], step=step) for net in nets]
        assert all(torch.equal(loss, losses[0]) for loss in losses)
        gradients = [[parameter.gradient for parameter in net.parameters] for net in nets]
        for same in zip(*gradients, strict=True):
            assert same[0] is not None
            assert all(gradient is not None and torch.equal(gradient, same[0]) for gradient in same)


def make_link(streams: Streams, way: Way, target: torch.device = CPU) -> tuple[Link, DeviceStream, DeviceStream]:
    ends = streams.stream(CPU, "source"), streams.stream(target, "target")
    return Link(streams, Route.between(streams, CPU, target, "route", way), *ends, "link"), *ends


@pytest.mark.parametrize("way", NEEDED)
def test_a_link_brings_the_tensor_and_keeps_its_layout(way: Way) -> None:
    link, _, _ = make_link(Streams(), way)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 4, 5, 6).contiguous(memory_format=layout)
        link.send(x)
        received = link.receive()
        link.release()
        link.settle()
        assert torch.equal(received, x)
        assert received.stride() == x.stride()
        assert received.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("way", NEEDED)
def test_a_smaller_batch_uses_the_same_memory_and_a_larger_one_makes_it_grow(way: Way) -> None:
    link, _, _ = make_link(Streams(), way)
    addresses = []
    for count in (4, 2, 4, 8, 3):
        x = torch.randn(count, 1000)
        link.send(x)
        received = link.receive()
        assert torch.equal(received, x)
        pinned = link._pinned._memory
        assert (pinned is not None) == (way == "host")
        addresses.append((received.data_ptr(), pinned.data_ptr() if pinned is not None else 0))
        link.release()
        link.settle()
    assert addresses[0] == addresses[1] == addresses[2]
    assert addresses[3] == addresses[4]


def test_the_sent_tensor_is_kept_until_the_copy_has_been_waited_for() -> None:
    detector = RaceDetector()
    link, source, _ = make_link(detector, "direct")
    with detector.watching(), detector.on(source):
        link.send(torch.ones(1 << 16))
        assert link._sending is not None
        link.settle()
        torch.ones(1)
    assert link._sending is None
    assert detector.races == []
