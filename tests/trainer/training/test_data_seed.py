"""Runs with a data seed of their own: other weights, the same stream."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import Train, equal, lines, weights
from trainer.checkpoints import checkpoint


def seeds_asked_for(loader: MemoryLoader) -> set[int]:
    return {spec.seed for spec in loader.specs if spec.split == "train"}


def test_runs_that_share_a_data_seed_read_one_stream_and_differ_in_their_weights(
    train: Train, loader: MemoryLoader, tmp_path: Path
) -> None:
    nets = [train(f"net-{seed}", seed=seed, data_seed=7, epochs=1) for seed in (1, 2)]
    assert seeds_asked_for(loader) == {7}
    assert not equal(*map(weights, nets))
    for seed in (1, 2):
        (start,), (epoch,) = (lines(tmp_path / f"net-{seed}", kind) for kind in ("run", "epoch"))
        assert (start["seed"], start["data_seed"], epoch["stream"]["seed"]) == (seed, 7, 7)


def test_the_data_seed_is_the_seed_unless_given(train: Train, loader: MemoryLoader) -> None:
    together, apart = train("together", seed=5, steps=2), train("apart", seed=5, data_seed=5, steps=2)
    assert seeds_asked_for(loader) == {5}
    assert equal(weights(together), weights(apart))


@pytest.mark.parametrize("options", [{"seed": 5}, {"seed": 5, "data_seed": 0}])
def test_a_resumed_run_keeps_its_data_seed_and_its_bits(train: Train, options: dict[str, Any]) -> None:
    undisturbed = train("undisturbed", **options)
    train("stopped", steps=3, **options)
    resumed = train("stopped", resume=True, **options)
    assert resumed.state == undisturbed.state
    assert equal(weights(resumed), weights(undisturbed))


def test_a_checkpoint_of_before_there_was_a_data_seed_resumes_to_the_same_bits(train: Train) -> None:
    undisturbed = train("undisturbed", seed=5)
    path = train("older", seed=5, steps=3).checkpoint
    loaded = checkpoint.load(path)
    checkpoint.save(path.parent, replace(loaded, state=replace(loaded.state, data_seed=None)))
    assert equal(weights(train("older", resume=True)), weights(undisturbed))
