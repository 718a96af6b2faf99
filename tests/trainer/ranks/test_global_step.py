"""Steps of several ranks, real processes: the same bits however many compute the same parts."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.rank_steps import BY_RANKS, PARTS, VARIANTS, Results, steps
from trainer.ranks.world import World

RUNS = [(name, ranks) for ranks, names in BY_RANKS.items() for name in names]
ORDERED = [(name, ranks) for name, ranks in RUNS if VARIANTS[name].reduce == "ordered"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks found."""
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
