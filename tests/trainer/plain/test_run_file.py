"""AlexNet2012.from_run reads the file that alexnet-evaluate would, or says what is wrong."""

import os
from pathlib import Path

import pytest
import torch

from tests.support.lively_nets import NAMES, mean_image, save_lively, variant
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.resume import load_named
from trainer.plain import AlexNet2012

RECIPE = variant("cifar10", "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 20, of which the first is the best."""
    checkpoint.save_best(save_lively(tmp_path / "run", RECIPE, step=1))
    save_lively(tmp_path / "run", RECIPE, step=20, seed=1)
    return tmp_path / "run"


def assert_as_evaluated(path: Path) -> None:
    net, expected = AlexNet2012.from_run(path), load_named(path).checkpoint
    state = net.state_dict()
    assert torch.equal(state.pop("mean"), expected.mean_hwc.permute(2, 0, 1))  # type: ignore[union-attr]
    assert state.keys() == expected.weights.keys()
    assert all(torch.equal(state[name], weight) for name, weight in expected.weights.items())
    assert net.class_names == NAMES


def test_a_run_s_best_a_named_file_and_without_a_best_the_newest_are_read(run: Path) -> None:
    assert_as_evaluated(run)
    assert_as_evaluated(run / "checkpoint-00000020.safetensors")
    (run / "best.safetensors").unlink()
    assert_as_evaluated(run)
    assert_as_evaluated(run / "checkpoint-00000001.safetensors")


@pytest.mark.parametrize("damage", ["cut off", "rotten", "emptied"])
def test_a_damaged_best_is_passed_over_with_a_warning(damage: str, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = run / "best.safetensors"
    data = best.read_bytes()
    best.unlink()
    best.write_bytes({"cut off": data[:-9], "rotten": data[:-1] + bytes([data[-1] ^ 1]), "emptied": b""}[damage])
    assert_as_evaluated(run)
    assert "best.safetensors" in caplog.text
    assert "passed over" in caplog.text
    with pytest.raises(ValueError, match=r"best\.safetensors.*damaged"):
        AlexNet2012.from_run(best)


def test_what_is_no_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    torch.save({}, tmp_path / "net.pt")
    for missing in ("none", "empty"):
        with pytest.raises(FileNotFoundError, match=missing):
            AlexNet2012.from_run(tmp_path / missing)
    for other in ("fifo", "net.pt"):
        with pytest.raises(ValueError, match=other):
            AlexNet2012.from_run(tmp_path / other)


def test_what_alexnet_evaluate_would_not_answer_is_refused(tmp_path: Path) -> None:
    whole = checkpoint.load(save_lively(tmp_path / "whole", RECIPE))
    nan = whole.weights | {"conv1.bias": torch.full_like(whole.weights["conv1.bias"], torch.nan)}
    lacks = {name: weight for name, weight in whole.weights.items() if name != "fc7.bias"}
    mean = torch.from_numpy(mean_image())
    for folder, weights, mean_hwc, error in (
        ("nan", nan, mean, "not finite"),
        ("lacks", lacks, mean, r"fc7\.bias"),
        ("no-mean", whole.weights, None, "no mean image"),
    ):
        (tmp_path / folder).mkdir()
        path = checkpoint.save(tmp_path / folder, Checkpoint(whole.state, weights, {}, mean_hwc))
        with pytest.raises(ValueError, match=error):
            AlexNet2012.from_run(path)
