"""Copies between halves on real GPUs, one or two: both ways, right bits under any delay."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer.device.streams import DeviceStream, Event, Streams
from trainer.network.exchange import Way, Ways
from trainer.network.peers import Copier, probe, ways_between
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import SOURCE

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(GPUS == 0, reason="there is no GPU")

FIRST = torch.device("cuda", 0)
SECOND = torch.device("cuda", 1)
PAIRS = [(FIRST, FIRST)] + ([(FIRST, SECOND), (SECOND, FIRST)] if GPUS > 1 else [])
BOTH_WAYS: tuple[Way, Way] = ("direct", "host")
NARROW = replace(SOURCE.with_each_layer(weight_std="he"), width=1 / 8, classes=10)
BATCH_SIZES = (4, 4, 4, 4, 2, 4, 8)  # often enough the same that graphs are recorded and replayed
TRIALS = 20
SHARE_LATE = 0.2
CYCLES_LATE = 1_000_000  # half a millisecond or so


class LateStreams(Streams):
    """Work comes late, at random; the waits for one kind of event can be left out."""

    def __init__(self, seed: int, leave_out: str = "never") -> None:
        self._draws, self._leave_out = random.Random(seed), leave_out

    def wait(self, stream: DeviceStream, event: Event) -> None:
        if not event.name.endswith(self._leave_out):
            super().wait(stream, event)

    @contextlib.contextmanager
    def on(self, *streams: DeviceStream) -> Iterator[None]:
        for stream in streams:
            if self._draws.random() < SHARE_LATE:
                self.delay(stream, self._draws.randrange(CYCLES_LATE))
        with super().on(*streams):
            yield


@pytest.fixture(autouse=True)
def same_bits_each_time() -> Iterator[None]:
    """As `trainer.training.launch` has it."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("way", BOTH_WAYS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_copier_brings_the_right_bits_and_tells_its_speed(
    pair: tuple[torch.device, torch.device], way: Way
) -> None:
    rate_gb_s = probe(Copier(*pair, way))
    assert rate_gb_s is not None
    assert 0.1 < rate_gb_s < 100_000


@pytest.mark.parametrize("asked", ["auto", *BOTH_WAYS])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_each_direction_gets_a_way(
    pair: tuple[torch.device, torch.device], asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ways = ways_between(pair, asked)
    assert set(ways) <= (set(BOTH_WAYS) if asked == "auto" else {asked})
    assert [message.partition(": ")[0] for message in caplog.messages] == [
        f"{source} to {target}" for source, target in dict.fromkeys([pair, pair[::-1]])
    ]


def some_steps(
    devices: tuple[torch.device, torch.device], ways: Ways, graphs: bool, streams: Streams | None = None
) -> list[Tensor]:
    """Losses, gradients and predictions of steps on different images, changing in number; on the CPU."""
    draws = torch.Generator().manual_seed(0)
    net = TwoHalves(NARROW, seed=0, devices=devices, ways=ways, streams=streams, graphs=graphs)
    found = []
    for step, count in enumerate(BATCH_SIZES):
        x, labels = 60 * torch.randn(count, 3, 227, 227, generator=draws), torch.randint(10, (count,), generator=draws)
        batch = (x.to(devices[0]), x.to(devices[1]))
        found.append(net.train_step(batch, labels.to(devices[0]), step=step).cpu())
        found += [each.gradient.cpu() for each in net.parameters if each.gradient is not None]
        found.append(net.predict(batch).cpu())
    return found


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:.*[Dd]eterministic")
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_graphs_change_no_bit_though_the_number_of_pictures_changes(pair: tuple[torch.device, torch.device]) -> None:
    ways: Ways = ("direct", "direct")
    assert same_bits(some_steps(pair, ways, graphs=True), some_steps(pair, ways, graphs=False))


# What has no deterministic algorithm, or says that it needs a setting of cuBLAS, warns; what counts is what comes out.
@pytest.mark.filterwarnings("ignore:.*[Dd]eterministic")
@pytest.mark.parametrize("ways", [("host", "host"), ("direct", "host"), ("host", "direct")], ids="-".join)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_the_way_of_the_copies_changes_no_bit(
    pair: tuple[torch.device, torch.device], ways: Ways, graphs: bool
) -> None:
    assert same_bits(some_steps(pair, ways, graphs), some_steps(pair, ("direct", "direct"), graphs))


@pytest.mark.filterwarnings("ignore:.*[Dd]eterministic")
@pytest.mark.parametrize("way", BOTH_WAYS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_delays_anywhere_change_no_bit(pair: tuple[torch.device, torch.device], way: Way, graphs: bool) -> None:
    expected = some_steps(pair, (way, way), graphs)
    for seed in range(TRIALS):
        assert same_bits(some_steps(pair, (way, way), graphs, LateStreams(seed)), expected), seed


@pytest.mark.filterwarnings("ignore:.*[Dd]eterministic")
@pytest.mark.parametrize(
    ("way", "kind"),
    [("direct", "ready"), ("direct", "arrived"), ("host", "ready"), ("host", "arrived"), ("host", "staged")],
)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_without_a_kind_of_wait_some_delay_does(pair: tuple[torch.device, torch.device], way: Way, kind: str) -> None:
    expected = some_steps(pair, (way, way), graphs=False)
    trials = (some_steps(pair, (way, way), False, LateStreams(seed, leave_out=kind)) for seed in range(TRIALS))
    assert any(not same_bits(found, expected) for found in trials)
