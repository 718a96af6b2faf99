"""Runs that begin with the weights of another: what is taken, bit for bit, and what is initialised."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from common.errors import CheckpointError, UsageError
from tests.support.checkpoints import a_checkpoint, flip_a_bit
from tests.support.memory_loader import CLASSES, MemoryLoader
from tests.support.photo_tree import make_tree
from tests.support.processes import LoaderProcess
from tests.support.tiny_run import TINY, Train, lines
from tests.support.trainer_process import OPTIONS
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.resume import load_named
from trainer.cli.train_command import main as train_command
from trainer.network.initial import initial_tensors
from trainer.recipes.ablations import ablated

UNMOVED = ["--lr", "1e-60", "--steps", "1"]  # a step of zero in float32


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from loader.cli.pack_command import main

    folder = tmp_path_factory.mktemp("three")
    result = CliRunner().invoke(main, [str(make_tree(folder / "tree", 24, 6)), str(folder / "data"), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    return folder / "data"


def begin(folder: Path, data: Path, *options: str | Path) -> tuple[int, list[str]]:
    """A run on a loader of its own; its exit code and the lines it logged."""
    with LoaderProcess(data, folder, workers=1) as service, contextlib.chdir(folder):
        given = ["--cpu", "--threads", "1", "--loader", service.endpoint, *options]
        result = CliRunner().invoke(train_command, list(map(str, given)))
    return result.exit_code, [line.partition("alexnet-trainer: ")[2] for line in result.stderr.splitlines()]


def same_bits(a: Checkpoint, b: Checkpoint) -> set[str]:
    """The names of the weights that both have, with the same shape and bits."""
    return {name for name, tensor in a.weights.items() if name in b.weights and torch.equal(tensor, b.weights[name])}


def test_a_net_is_taken_over_to_other_classes_and_with_a_layer_more(
    packed: Path, three_classes: Path, tmp_path: Path
) -> None:
    assert begin(tmp_path, packed, *OPTIONS, "--steps", "2", "--run", "first")[0] == 0
    first = checkpoint.load(checkpoint.newest(tmp_path / "first"))

    code, told = begin(tmp_path, three_classes, "--init", "first", *UNMOVED, "--batch-size", "8", "--run", "other")
    assert code == 0, told
    other = checkpoint.load(checkpoint.newest(tmp_path / "other"))
    assert same_bits(first, other) == first.weights.keys() - {"fc8.weight", "fc8.bias"}
    assert other.weights["fc8.weight"].shape[0] == 3
    assert "weights of first/checkpoint-00000002.safetensors, step 2:" in told
    assert "  conv1.weight 8x3x11x11: taken" in told
    assert "  fc8.bias 3: initialised: 3 outputs instead of 10" in told
    (start_line,) = lines(tmp_path / "other", "run")
    assert (start_line["step"], start_line["init"]["step"]) == (0, 2)
    assert start_line["init"]["weights"]["fc8.bias"] == "initialised: 3 outputs instead of 10"
    assert start_line["init"]["dataset"] == first.state.dataset != start_line["dataset"]["digest"]

    path = checkpoint.newest(tmp_path / "first")
    code, told = begin(tmp_path, packed, "--init", path, "--ablate", "conv6", *UNMOVED, "--run", "deeper")
    assert code == 0, told
    deeper = checkpoint.load(checkpoint.newest(tmp_path / "deeper"))
    assert same_bits(first, deeper) == first.weights.keys()
    assert deeper.weights.keys() - first.weights.keys() == {"conv6.weight", "conv6.bias"}
    assert "  conv6.weight 8x4x3x3: initialised: the checkpoint has none" in told
    assert deeper.state.recipe.name == "demo+conv6", "its own recipe, with what the options change"


def test_what_is_not_taken_is_as_the_recipe_says_and_nothing_moves_yet(train: Train) -> None:
    path = train("first", steps=2).checkpoint
    new = checkpoint.load(train("second", init=path, recipe=None, ablate=("conv6",), steps=0, seed=5).checkpoint)
    recipe = ablated(replace(TINY, classes=len(CLASSES)), ["conv6"])
    initial = initial_tensors(recipe, seed=5)
    for name in ("conv6.weight", "conv6.bias"):
        assert torch.equal(new.weights.pop(name), initial[name])
    assert same_bits(checkpoint.load(path), new) == new.weights.keys()
    assert new.velocities.keys() == initial.keys()
    assert not any(velocity.any() for velocity in new.velocities.values())
    assert (new.state.step, new.state.epoch, new.state.first, new.state.best_error) == (0, 0, 0, None)


def test_of_a_folder_the_best_is_taken_and_else_the_newest(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    folder = train().checkpoint.parent
    best = folder / checkpoint.BEST
    assert load_named(folder).path == best
    flip_a_bit(best)
    assert load_named(folder).path != best
    assert f"{best}: it is damaged: its contents do not match their digest; passed over" in caplog.messages
    best.unlink()
    assert load_named(folder).path == checkpoint.newest(folder)


def test_the_last_layer_is_taken_only_for_the_same_classes(train: Train, loader: MemoryLoader, tmp_path: Path) -> None:
    origin = checkpoint.load(train(steps=1).checkpoint)
    last = {"fc8.weight", "fc8.bias"}
    same = checkpoint.load(train("same", init=tmp_path / "run", steps=0, seed=5).checkpoint)
    assert same_bits(origin, same) == origin.weights.keys()
    loader.classes = tuple(reversed(CLASSES))
    others = checkpoint.load(train("others", init=tmp_path / "run", steps=0, seed=5).checkpoint)
    assert same_bits(origin, others) == origin.weights.keys() - last
    (start,) = lines(tmp_path / "others", "run")
    assert start["init"]["weights"]["fc8.bias"] == "initialised: the classes have other names"


def test_a_layer_of_another_shape_is_initialised_and_says_which(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    train("wider", init=tmp_path / "run", steps=0, width=0.04)
    (start,) = lines(tmp_path / "wider", "run")
    fates = start["init"]["weights"]
    assert fates["conv2.weight"] == "taken"
    assert fates["conv3.weight"] == "initialised: 16 outputs instead of 8"
    assert fates["conv4.weight"] == "initialised: 16x8x3x3 instead of 8x4x3x3"
    assert fates["fc7.weight"] == "initialised: 160x160 instead of 80x80"


def test_a_layer_that_the_new_network_has_not_is_named(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    folder = train(steps=1).checkpoint.parent
    caplog.set_level("INFO")
    train("shallower", init=folder, recipe=None, ablate=("no-conv4",), steps=0)
    assert "  conv4.bias 8: left, this network has none" in caplog.messages


def refused(train: Train, kind: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(kind, match=message):
        train("second", **options)


def test_what_cannot_be_taken_is_refused_by_name(train: Train, tmp_path: Path) -> None:
    foreign = checkpoint.save(tmp_path, a_checkpoint(7))
    refused(train, CheckpointError, f"{foreign}: none of its weights has the name and the shape", init=foreign)
    flip_a_bit(foreign)
    refused(train, CheckpointError, "it is damaged: its contents do not match", init=foreign)
    refused(train, UsageError, "there is no checkpoint .*nowhere", init=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(train, UsageError, "empty holds no checkpoint", init=tmp_path / "empty")
    assert not list((tmp_path / "second").glob("*")), "nothing was begun"
