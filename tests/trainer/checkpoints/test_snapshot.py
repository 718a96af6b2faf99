"""A snapshot is of its moment, whatever training does while it is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import STATE
from tests.support.race_detector import RaceDetector
from trainer.checkpoints import checkpoint, snapshot
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.snapshot import NotFinite, Snapshot
from trainer.device.streams import Streams
from trainer.network.parameters import Block, Parameter, Placement
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
SHAPES = {"conv1.weight": (6, 4, 3, 3), "fc6.bias": (7,), "fc6.weight": (7, 10)}
BLOCKS = [  # fc6.weight in four, as the halves have it
    Block("conv1.weight"),
    Block("fc6.bias"),
    *(
        Block("fc6.weight", (rows, columns))
        for rows in (slice(0, 3), slice(3, 7))
        for columns in (slice(0, 4), slice(4, 10))
    ),
]
RATES = dict.fromkeys(SHAPES, 0.1)


class Training:
    """Parameters that change with every step."""

    def __init__(self, streams: Streams) -> None:
        torch.manual_seed(0)
        reference = {name: torch.randn(shape) for name, shape in SHAPES.items()}
        self.placement = Placement(
            [Parameter(block, reference[block.name], CPU, torch.float32) for block in BLOCKS], reference
        )
        conv1 = self.placement.parameters[0]
        conv1.weight = conv1.weight.contiguous(memory_format=torch.channels_last)  # as on a GPU
        self.sgd = Sgd(self.placement.parameters, momentum=0.9, weight_decay=0.1, decay_biases=True, streams=streams)
        self.snapshot = Snapshot(self.placement.parameters, self.sgd.velocities, SHAPES, streams)

    def step(self) -> None:
        for parameter in self.placement.parameters:
            parameter.gradient = torch.randn_like(parameter.weight)
        self.sgd.step(RATES)

    def gather(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.placement.gather(), self.placement.gather(self.sgd.velocities)

    def written(self, folder: Path) -> Checkpoint:
        self.snapshot.wait()
        return checkpoint.load(checkpoint.write(folder, STATE, self.snapshot.stored(), None))


def same(of: Checkpoint, expected: tuple[dict[str, Tensor], dict[str, Tensor]]) -> bool:
    return all(
        found.keys() == tensors.keys() and all(found[name].equal(tensors[name]) for name in tensors)
        for found, tensors in zip((of.weights, of.velocities), expected, strict=True)
    )


@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 19])
def test_steps_after_a_snapshot_change_no_bit_of_it(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PIECE_BYTES", piece_bytes)
    training = Training(Streams())
    for _ in range(2):  # the second in the memory of the first
        training.step()
        training.snapshot.take()
        then = training.gather()
        training.snapshot.hold_update()
        training.step()
        written = training.written(tmp_path)
        assert same(written, then)
        assert not same(written, training.gather())


def races(leave_out: str = "", *, holds: bool = True) -> list[str]:
    """Two snapshots, each read by the host while the next update begins."""
    detector = RaceDetector(leave_out)
    training = Training(detector)
    with detector.watching():
        for _ in range(2):
            with detector.on(detector.current(CPU)):
                for parameter in training.placement.parameters:
                    parameter.gradient = torch.ones_like(parameter.weight)
            training.sgd.step(RATES)
            training.snapshot.take()
            if holds:
                training.snapshot.hold_update()
            training.sgd.step(RATES)
            training.snapshot.wait()
            with detector.on(detector.host):
                for copies in training.snapshot.copies.values():
                    for copy in copies.values():
                        copy.clone()
    return detector.races


def test_no_access_of_a_snapshot_is_a_race() -> None:
    assert races() == []


@pytest.mark.parametrize("kind", ["updated", "copied"])
def test_each_kind_of_wait_is_needed(kind: str) -> None:
    assert races(leave_out=kind)


def test_an_update_that_does_not_wait_for_the_copies_is_a_race() -> None:
    assert races(holds=False)


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["weights", "velocities"]),
    index=st.integers(0, len(BLOCKS) - 1),
    place=st.integers(0, 1000),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
def test_a_number_that_is_not_finite_is_found_by_the_name_of_its_tensor(
    kind: str, index: int, place: int, value: float
) -> None:
    training = Training(Streams())
    parameter = training.placement.parameters[index]
    spoilt = parameter.weight if kind == "weights" else training.sgd.velocities[parameter]
    spoilt.detach()[np.unravel_index(place % spoilt.numel(), spoilt.shape)] = value
    training.snapshot.take()
    stored = training.snapshot.stored()
    with pytest.raises(NotFinite, match=f"^{parameter.name}$"):
        list(stored[f"{kind}/{parameter.name}"].pieces())
    for name in stored.keys() - {f"{kind}/{parameter.name}"}:
        list(stored[name].pieces())
