"""On a real GPU: the schedule's bits are those of one stream, whatever is late, and no wait is there in vain.

Both halves are on one card, which is the stricter test: PyTorch puts no barrier around a copy on one device.
"""

import contextlib
import gc
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer.device.devices import set_precision
from trainer.device.streams import DeviceStream, Event, Streams
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import SOURCE
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

RECIPE = replace(SOURCE.with_each_layer(weight_std="he"), width=1 / 8, classes=10)
RATES = {name: rate / 100 for name, rate in Schedule(RECIPE).rates(0).items()}
STEPS, BATCH = 3, 8
LONG = 2_000_000  # cycles: about a millisecond


class OneStream(Streams):
    """Everything on the device's current stream."""

    def stream(self, device: torch.device, name: str) -> DeviceStream:
        return replace(self.current(device), name=name)


class Delayed(Streams):
    """Puts a pause before some of the work on any stream, and forgets the waits for events of one name's ending."""

    def __init__(self, seed: int, share: float, longest: int = LONG, leave_out: str = "") -> None:
        self._random, self._share, self._longest, self._leave_out = random.Random(seed), share, longest, leave_out

    def wait(self, stream: DeviceStream, event: Event) -> None:
        if not (self._leave_out and event.name.endswith(self._leave_out)):
            super().wait(stream, event)

    @contextlib.contextmanager
    def on(self, *streams: DeviceStream) -> Iterator[None]:
        with super().on(*streams):
            if self._random.random() < self._share:
                self.delay(streams[0], self._random.randrange(self._longest))
            yield


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> Iterator[None]:
    set_precision("fp32")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device("cuda", 0)


def batches() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    return [
        (60 * torch.randn(BATCH, 3, 227, 227, generator=draws), torch.randint(10, (BATCH,), generator=draws))
        for _ in range(STEPS)
    ]


def trained(
    streams: Streams,
    device: torch.device,
    data: list[tuple[Tensor, Tensor]],
    *,
    graphs: bool = False,
    steps: int = 0,
    late: int = LONG // 4,
) -> list[Tensor]:
    """Losses and weights after some steps whose pixels arrive late, in one buffer, on the caller's stream."""
    net = TwoHalves(RECIPE, seed=0, devices=(device, device), streams=streams, graphs=graphs)
    sgd = Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=False, streams=streams, graphs=graphs)
    x, labels = (torch.empty_like(each, device=device) for each in data[0])
    on_device = [(pixels.to(device), classes.to(device)) for pixels, classes in data]
    told = []
    for step in range(steps or len(data)):
        pixels, classes = on_device[step % len(data)]
        torch.cuda._sleep(late)  # type: ignore[no-untyped-call]
        x.copy_(pixels)
        labels.copy_(classes)
        told.append(net.train_step((x, x), labels, step=step).clone())
        sgd.step(RATES)
    return [tensor.cpu() for tensor in told] + list(net.gather().values())


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def expected(device: torch.device) -> list[Tensor]:
    return trained(OneStream(), device, batches())


def test_its_own_streams_change_no_bit(device: torch.device, expected: list[Tensor]) -> None:
    assert same(trained(Streams(), device, batches()), expected)


def test_no_delay_changes_a_bit_in_200_trials(device: torch.device, expected: list[Tensor]) -> None:
    data = batches()
    late = [seed for seed in range(200) if not same(trained(Delayed(seed, 0.2), device, data), expected)]
    assert late == []


def test_graphs_change_no_bit_whatever_is_late(device: torch.device) -> None:
    data = batches()
    expected = trained(OneStream(), device, data, steps=12)
    for seed in range(20):
        assert same(trained(Delayed(seed, 0.2), device, data, graphs=True, steps=12), expected)


def _waits() -> list[str]:
    net = TwoHalves(RECIPE, seed=0, devices=(torch.device("cpu"), torch.device("cpu")))
    links = [link for exchange in net._exchanges.values() for link in exchange.links]
    events = [event.name for link in links for event in (link._ready, link._arrived)]
    return [*events, "begin 0", "begin 1", "end 0", "end 1"]


@pytest.mark.parametrize("name", _waits())
def test_without_any_one_wait_the_bits_change(name: str, device: torch.device, expected: list[Tensor]) -> None:
    data = batches()
    # Longer than the host takes to queue a step: only then has the one side not finished when the other begins.
    trials = (trained(Delayed(seed, 0.2, 30 * LONG, name), device, data, late=30 * LONG) for seed in range(12))
    assert any(not same(found, expected) for found in trials)


def test_a_hundred_losses_are_the_same_each_time_and_across_a_resume(device: torch.device) -> None:
    x, labels = batches()[0]
    x, labels = x.to(device), labels.to(device)

    def run(net: TwoHalves, sgd: Sgd, first: int, last: int) -> list[float]:
        told = []
        for step in range(first, last):
            told.append(net.train_step((x, x), labels, step=step)[0].item())
            sgd.step(RATES)
        return told

    def fresh() -> tuple[TwoHalves, Sgd]:
        net = TwoHalves(RECIPE, seed=0, devices=(device, device), graphs=True)
        return net, Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=False, graphs=True)

    golden = run(*fresh(), 0, 100)
    assert golden[-1] < golden[0]
    net, sgd = fresh()
    first_half = run(net, sgd, 0, 50)
    resumed, resumed_sgd = fresh()
    resumed.scatter(net.gather())
    resumed.scatter(net.gather(sgd.velocities), resumed_sgd.velocities)
    assert first_half + run(resumed, resumed_sgd, 50, 100) == golden


def test_batch_sizes_that_last_are_recorded_anew_in_memory_that_does_not_grow(device: torch.device) -> None:
    x, labels = (each.to(device) for each in batches()[0])

    def run(graphs: bool) -> tuple[list[float], list[int]]:
        """Losses, and the bytes held after each size, which lasts four steps."""
        net = TwoHalves(RECIPE, seed=0, devices=(device, device), graphs=graphs)
        sgd = Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=False, graphs=graphs)
        losses, held = list[float](), list[int]()
        for size in (BATCH, BATCH // 2) * 4:
            pixels, classes = x[:size], labels[:size]
            for _ in range(4):
                losses.append(net.train_step((pixels, pixels), classes, step=len(losses))[0].item())
                sgd.step(RATES)
            gc.collect()
            held.append(torch.cuda.memory_allocated(device))
        return losses, held

    recorded, held = run(True)
    assert recorded == run(False)[0]
    assert max(held[4:]) <= max(held[:4]) + (1 << 20)


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("kind", ["halves", "one device"])
def test_a_gpu_computes_what_a_cpu_does_in_float64(kind: str, name: str, device: torch.device) -> None:
    cpu = torch.device("cpu")
    x, labels = batches()[0]
    reference = TwoHalves(RECIPE, seed=0, devices=(cpu, cpu), dtype=torch.float64)
    loss = reference.train_step((x.double(),) * 2, labels, step=3)[0]
    dtype = set_precision(name)
    try:
        if kind == "halves":
            net: TwoHalves | OneDevice = TwoHalves(RECIPE, seed=0, devices=(device, device), dtype=dtype)
        else:
            net = OneDevice(RECIPE, seed=0, device=device, dtype=dtype)
        inputs = (x.to(device, dtype),) * len(net.input_devices)
        found = net.train_step(inputs, labels.to(device), step=3)[0]
    finally:
        set_precision("fp32")
    # Rounding grows on its way down to conv1; fc8's gradient has the fewest products behind it.
    tolerance = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 3e-2}[name]
    assert found.item() == pytest.approx(loss.item(), rel=tolerance)
    gradients = [each.gather({p: p.gradient.float() for p in each.parameters if p.gradient is not None})
                 for each in (net, reference)]  # fmt: skip
    mine, exact = (each["fc8.weight"] for each in gradients)
    assert float((mine - exact).norm() / exact.norm()) < tolerance
