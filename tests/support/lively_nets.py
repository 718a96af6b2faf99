"""Checkpoints of any recipe whose nets tell images apart, and the trainer's own answers of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State
from trainer.device.streams import Streams
from trainer.evaluation.ensemble import Member
from trainer.evaluation.trained import Placing, load_trained, member_of
from trainer.network.initial import initial_tensors
from trainer.network.model import logits
from trainer.ops.dropout import Scaling
from trainer.recipes.ablations import ABLATIONS, ablated
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe

CPU = torch.device("cpu")
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
SPREAD = 2.0  # standard deviation of the logits

VARIANTS = [(recipe, "") for recipe in RECIPES] + [
    (recipe, change) for recipe in ("paper", "source", "cifar10") for change in ABLATIONS if change != "no-noise"
]


def variant(recipe: str, change: str, width: float = 0.03) -> Recipe:
    changed = ablated(RECIPES[recipe], [change] if change else [])
    return replace(changed, width=width, classes=len(NAMES))


def images(count: int = 2, seed: int = 0) -> Tensor:
    """uint8 n x 3 x 256 x 256, of coarse and of fine structure."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draws).repeat_interleave(64, 2).repeat_interleave(64, 3)
    return ((0.7 * coarse + 0.3 * torch.rand(count, 3, 256, 256, generator=draws)) * 255).to(torch.uint8)


def mean_image(seed: int = 0) -> npt.NDArray[np.float32]:
    """float32 256 x 256 x 3, whole numbers: at scale 1 the nets' pixels are then the same in any precision."""
    return np.random.default_rng(seed).integers(80, 160, (256, 256, 3)).astype(np.float32)


def save_lively(folder: Path, recipe: Recipe, step: int = 1, seed: int = 0) -> Path:
    """A checkpoint of `recipe`, its last layer scaled so that the logits of `images` spread by SPREAD."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = initial_tensors(recipe.with_each_layer(weight_std="he", bias=0.1), seed=seed)
    pixels = (images()[:, :, : recipe.crop, : recipe.crop].float() - 120) * recipe.test_scale
    pixels = torch.nn.functional.avg_pool2d(pixels, recipe.shrink)
    missing = recipe.input_size - pixels.shape[2]
    pixels = torch.nn.functional.pad(pixels, (0, missing, 0, missing))
    scores = logits(pixels, weights, recipe, Scaling(recipe.dropout))
    weights[f"{recipe.fc[-1].name}.weight"] *= SPREAD / scores.std()
    state = State(
        epoch=1, first=0, step=step, seed=seed, recipe=recipe, dataset="ab" * 16, class_names=NAMES, threads=1
    )
    return checkpoint.save(folder, Checkpoint(state, weights, {}, torch.from_numpy(mean_image(seed))))


def trainers_member(path: Path, dtype: torch.dtype = torch.float32) -> Member:
    """The checkpoint as `alexnet-evaluate --cpu` runs it."""
    return member_of(load_trained(path), None, Placing(None, (CPU, CPU), dtype, Streams()))


def trainers_probabilities(
    path: Path, images_nchw: Tensor, view_counts: Sequence[int] = (1,), dtype: torch.dtype = torch.float32
) -> dict[int, Tensor]:
    """float32 n x classes by number of views, 1 and 10, as `alexnet-evaluate` averages them."""
    images = {CPU: images_nchw.permute(0, 2, 3, 1).contiguous()}
    return trainers_member(path, dtype).probabilities(images, view_counts)
