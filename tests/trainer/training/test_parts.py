"""Runs of one rank whose batches are computed in parts."""

import json
from pathlib import Path

import pytest

from tests.support.tiny_run import Train, equal, lines, weights
from trainer.checkpoints import checkpoint, files
from trainer.checkpoints.checkpoint import FORMAT, tensors_of
from trainer.checkpoints.files import StoredTensor
from trainer.checkpoints.state import to_json


def without_ranks(path: Path) -> None:
    """Rewrite a checkpoint as it was before there were ranks."""
    loaded = checkpoint.load(path)
    state = json.loads(to_json(loaded.state))
    del state["ranks"], state["parts"]
    tensors = {name: StoredTensor.of(tensor) for name, tensor in tensors_of(loaded).items()}
    files.write(path, tensors, {"format": FORMAT, "state": json.dumps(state)}, lambda: None)


def test_a_checkpoint_of_before_there_were_ranks_resumes_to_the_same_bits(train: Train) -> None:
    undisturbed = train("undisturbed")
    without_ranks(train("older", steps=7).checkpoint)
    resumed = train("older", resume=True)
    assert equal(weights(resumed), weights(undisturbed))
    assert (resumed.state.ranks, resumed.state.parts) == (1, 1)


def test_other_parts_are_told_and_round_differently(train: Train, tmp_path: Path) -> None:
    undisturbed = train("undisturbed")
    train("changed", steps=8)  # in the next one both parts have wrong answers
    changed = train("changed", resume=True, parts=2)
    assert changed.state.parts == 2
    assert not equal(weights(changed), weights(undisturbed))
    assert lines(tmp_path / "changed", "run")[-1]["changed"] == {"parts": [1, 2]}
    in_parts, whole = (lines(tmp_path / folder, "step")[8] for folder in ("changed", "undisturbed"))
    assert [in_parts[key] for key in ("loss", "train_error")] == pytest.approx(
        [whole["loss"], whole["train_error"]], rel=1e-4
    )
    assert train("changed", resume=True).state.parts == 2
