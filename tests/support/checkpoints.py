"""Small checkpoints."""

from dataclasses import replace
from pathlib import Path

import torch

from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import ScheduleState, State, Tally
from trainer.recipes.named import DEMO

STATE = State(
    epoch=2,
    first=96,
    step=130,
    seed=7,
    recipe=replace(DEMO, classes=2),
    dataset="ab" * 16,
    class_names=("cat", "dog"),
    threads=1,
    schedule=ScheduleState(drops=1),
    tally=Tally(images=96, loss_sum=1.1),
)


def a_checkpoint(step: int = 130) -> Checkpoint:
    torch.manual_seed(step)
    weights = {"conv1.weight": torch.randn(4, 3, 11, 11), "fc8.bias": torch.randn(10)}
    velocities = {name: torch.randn_like(w) for name, w in weights.items()}
    return Checkpoint(replace(STATE, step=step), weights, velocities, torch.rand(256, 256, 3))


def flip_a_bit(path: Path, place: int = -100) -> None:
    contents = bytearray(path.read_bytes())
    contents[place] ^= 16
    path.write_bytes(contents)


def same_tensors(a: Path, b: Path) -> bool:
    one, other = checkpoint.load(a), checkpoint.load(b)
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights | other.weights) and all(
        torch.equal(one.velocities[name], other.velocities[name]) for name in one.velocities | other.velocities
    )
