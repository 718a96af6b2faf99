"""Steps of several ranks, real processes: the same bits however many compute the same parts."""

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.rank_steps import BY_RANKS, CPU, PARTS, RACES, RATES, RECIPE, SIDE, VARIANTS, Results, steps
from tests.support.tapes import TapedStreams
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.ranks.global_step import GlobalStep
from trainer.ranks.share import Division
from trainer.ranks.world import World
from trainer.training.sgd import Sgd

RUNS = [(name, ranks) for ranks, names in BY_RANKS.items() for name in names]
ORDERED = [(name, ranks) for name, ranks in RUNS if VARIANTS[name].reduce == "ordered"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the ranks' findings."""
    made = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-m", "tests.support.rank_steps", made], cwd=ROOT, check=True, timeout=300)
    return made


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[str, int], Results]]:
    """Steps in this process of a variant, in so many parts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield functools.cache(lambda name, parts: steps(VARIANTS[name], World.alone(), parts))
    torch.set_num_threads(threads)


def of_rank(folder: Path, name: str, rank: int, ranks: int) -> Results:
    found: Results = torch.load(folder / f"{name} {rank} of {ranks}")
    return found


@pytest.mark.parametrize(("name", "ranks"), ORDERED)
def test_any_number_of_ranks_gives_the_same_bits(
    name: str, ranks: int, folder: Path, alone: Callable[[str, int], Results]
) -> None:
    found, expected = of_rank(folder, name, 0, ranks), alone(name, PARTS)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize(("name", "ranks"), RUNS)
def test_all_ranks_have_the_same_weights(name: str, ranks: int, folder: Path) -> None:
    first, *others = (of_rank(folder, name, rank, ranks) for rank in range(ranks))
    weights = [key for key in first if not key.startswith("told")]
    assert [key for other in others for key in weights if not torch.equal(other[key], first[key])] == []


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_step_in_parts_is_the_whole_batch_s_but_for_rounding(
    ranks: int, folder: Path, alone: Callable[[str, int], Results]
) -> None:
    found = alone("fast", PARTS) if ranks == 1 else of_rank(folder, "fast", 0, ranks)
    for key, expected in alone("fast", 1).items():
        if key.startswith("told") and expected.ndim == 2:
            torch.testing.assert_close(found[key].sum(dim=0), expected[0], rtol=1e-12, atol=0)
        elif not key.startswith("told"):
            assert (found[key] - expected).norm() < 1e-12 * expected.norm(), key


@pytest.mark.parametrize("rank", [0, 1])
def test_each_wait_between_compute_and_comm_streams_is_needed_and_no_other(rank: int, folder: Path) -> None:
    found = json.loads((folder / f"races {rank}").read_text())
    races = dict(zip(RACES, found, strict=True))
    assert races[2, ""] == races[4, ""] == []
    assert any("comm: c10d.alltoall" in race for race in races[2, "gradients ready"])
    assert any("comm may still be at" in race for race in races[2, "gradients summed"])


@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 70))
def test_each_image_lies_in_one_part_and_a_rank_s_parts_are_its_span(ranks: int, more: int, whole: int) -> None:
    division = Division(2**ranks, 2 ** (ranks + more))
    spans = [division.spans(rank, whole) for rank in range(division.ranks)]
    assert [index for own in spans for start, end in own for index in range(start, end)] == list(range(whole))
    assert [*itertools.chain(*spans)] == Division(1, division.parts).spans(0, whole)
    ends = [(own[0][0], own[-1][1]) for own in spans]
    assert ends == [(whole * rank // 2**ranks, whole * (rank + 1) // 2**ranks) for rank in range(2**ranks)]


@pytest.mark.parametrize("kind", [TwoHalves, OneDevice])
def test_recorded_parts_are_replayed_for_any_part_with_the_bits_of_unrecorded_ones(
    kind: type[TwoHalves] | type[OneDevice],
) -> None:
    plain, recorded = weights_after_steps(kind, graphs=False), weights_after_steps(kind, graphs=True)
    assert [name for name in plain if not torch.equal(plain[name], recorded[name])] == []


def weights_after_steps(kind: type[TwoHalves] | type[OneDevice], graphs: bool) -> Results:
    streams, recipe = TapedStreams(), replace(RECIPE, dropout=0.0)
    if kind is OneDevice:
        net: Net = OneDevice(recipe, seed=0, device=CPU, streams=streams, graphs=graphs)
    else:
        net = TwoHalves(recipe, seed=0, devices=(CPU, CPU), streams=streams, graphs=graphs)
    sgd = Sgd(net.parameters, momentum=0.9, weight_decay=0, decay_biases=False, streams=streams, graphs=graphs)
    step = GlobalStep(net, World.alone(), Division(parts=4), streams)
    draws, told = torch.Generator().manual_seed(1), {}
    for number, size in enumerate((4, 4, 4, 3, 4)):
        x, labels = 60 * torch.randn(size, 3, SIDE, SIDE, generator=draws), torch.arange(size)
        rows = step((x,) * len(net.input_devices), labels, step=number, whole=size)
        told[f"told {number}"] = rows
        sgd.step(RATES)
    assert bool(streams.recorded) == graphs
    return told | net.gather()
