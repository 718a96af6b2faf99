"""Recorded pieces do what the same pieces do unrecorded: on tapes, which stand in for CUDA graphs on a CPU."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.tapes import TapedStreams
from trainer.device.streams import Streams
from trainer.network.exchange import Ways
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import PAPER, SOURCE
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
SIDE = 67  # of the pictures: conv5 makes maps of one pixel
NARROW = {
    recipe.name: replace(
        recipe.with_each_layer(weight_std="he"), width=1 / 16, classes=5, dropout=0.0, input_size=SIDE, crop=SIDE
    )
    for recipe in (PAPER, SOURCE)
}
NARROW["in float16"] = replace(NARROW["source"], exchange="float16")
BATCH_SIZES = (2, 2, 2, 2, 2, 1, 2, 3, 3, 3, 3, 3, 2, 2, 2, 2)  # often enough the same to be recorded and replayed
RATES = {name: rate / 10 for name, rate in Schedule(NARROW["source"]).rates(0).items()}

Net = TwoHalves | OneDevice
Make = Callable[[Streams, bool], Net]


def halves(ways: Ways, recipe: str = "source") -> Make:
    return lambda streams, graphs: TwoHalves(
        NARROW[recipe], seed=0, devices=(CPU, CPU), ways=ways, streams=streams, graphs=graphs
    )


def one(streams: Streams, graphs: bool) -> Net:
    return OneDevice(NARROW["source"], seed=0, device=CPU, streams=streams, graphs=graphs)


NETS: dict[str, Make] = {
    "halves": halves(("direct", "direct")),
    "halves by the host": halves(("host", "host")),
    "the paper's": halves(("direct", "host"), "paper"),
    "exchanging float16": halves(("direct", "direct"), "in float16"),
    "one device": one,
}


class Training:
    """A net and its optimiser, recorded or not, and what its steps told."""

    def __init__(self, make: Make, *, graphs: bool) -> None:
        self.streams = TapedStreams()
        self.net = make(self.streams, graphs)
        self.sgd = Sgd(
            self.net.parameters,
            momentum=0.9,
            weight_decay=5e-4,
            decay_biases=False,
            streams=self.streams,
            graphs=graphs,
        )
        self.told: list[Tensor] = []
        self._draws = torch.Generator().manual_seed(1)

    def steps(self, batch_sizes: Sequence[int], rate: float = 1.0) -> None:
        for size in batch_sizes:
            x, labels = self._pixels(size), torch.randint(5, (size,), generator=self._draws)
            self.told.append(self.net.train_step(x, labels, step=len(self.told)).clone())
            self.sgd.step({name: rate * each for name, each in RATES.items()})

    def predict(self, size: int) -> None:
        self.told.append(self.net.predict(self._pixels(size)).clone())

    @property
    def results(self) -> list[Tensor]:
        return [*self.told, *self.net.gather().values(), *self.net.gather(self.sgd.velocities).values()]

    def _pixels(self, size: int) -> tuple[Tensor, ...]:
        x = 60 * torch.randn(size, 3, SIDE, SIDE, generator=self._draws)
        return (x,) * len(self.net.input_devices)


def both(make: Make, work: Callable[[Training], None]) -> tuple[Training, Training]:
    """A recorded and an unrecorded training, after the same work."""
    recorded, plain = Training(make, graphs=True), Training(make, graphs=False)
    work(recorded)
    work(plain)
    assert recorded.streams.recorded
    assert not plain.streams.recorded
    return recorded, plain


def assert_same_bits(recorded: Training, plain: Training) -> None:
    assert [torch.equal(a, b) for a, b in zip(recorded.results, plain.results, strict=True)].count(False) == 0


@pytest.mark.parametrize("name", NETS)
def test_steps_are_bit_for_bit_those_unrecorded_however_many_pictures_come(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same_bits(*both(NETS[name], lambda training: training.steps(BATCH_SIZES)))
    assert caplog.messages == [], "graphs were recorded anew for each lasting change"


def test_a_lasting_change_of_the_batch_size_is_recorded_anew() -> None:
    recorded = [Training(one, graphs=True) for _ in range(3)]
    for training, sizes in zip(recorded, ([2] * 4, [2] * 4 + [3] * 4, [2] * 4 + [3] * 4 + [2] * 4), strict=True):
        training.steps(sizes)
    first, second, third = (training.streams.recorded for training in recorded)
    assert (second, third) == (2 * first, 3 * first)


def test_another_rate_is_that_of_the_next_step() -> None:
    def work(training: Training) -> None:
        training.steps([2] * 5)
        training.steps([2] * 5, rate=0.1)
        training.steps([2] * 2, rate=0.0)

    assert_same_bits(*both(NETS["halves"], work))


@pytest.mark.parametrize("name", ["halves", "one device"])
def test_predictions_between_steps_are_those_of_the_weights_then(name: str) -> None:
    def work(training: Training) -> None:
        for _ in range(2):
            training.steps([2] * 4)
            for _ in range(4):
                training.predict(3)

    assert_same_bits(*both(NETS[name], work))


def test_weights_that_are_put_into_a_recorded_net_are_those_it_goes_on_with() -> None:
    def work(training: Training) -> None:
        before = {name: tensor.clone() for name, tensor in training.net.gather().items()}
        training.steps([2] * 5)
        training.net.scatter(before)
        training.steps([2] * 2)

    assert_same_bits(*both(NETS["halves"], work))


def test_what_cannot_be_recorded_is_done_without_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    dropping = replace(NARROW["source"], dropout=0.5)  # a CPU draws masks on the host

    def make(streams: Streams, graphs: bool) -> Net:
        return TwoHalves(dropping, seed=0, devices=(CPU, CPU), streams=streams, graphs=graphs)

    recorded, plain = both(make, lambda training: training.steps([2] * 6))
    assert_same_bits(recorded, plain)
    gc.collect()
    assert recorded.streams.held < recorded.streams.recorded / 2, (
        "a failed recording keeps no memory; the update's goes on"
    )
    (said,) = caplog.messages
    assert said.startswith("continuing without CUDA graphs: operation not permitted")
