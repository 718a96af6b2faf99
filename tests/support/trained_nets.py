"""Checkpoints of small nets with random weights, and their answers, computed plainly in float64."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State
from trainer.network.model import hidden, logits, reference_shapes
from trainer.network.one_device import OneDevice
from trainer.ops.dropout import Scaling
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe

SMALL = replace(RECIPES["source"], width=0.02, test_scale=1 / 40)
CPU = torch.device("cpu")

Array = npt.NDArray[np.float64]


def save_net(
    folder: Path,
    classes: tuple[str, ...],
    mean_hwc: npt.NDArray[np.float32] | None,
    recipe: Recipe = SMALL,
    seed: int = 0,
    step: int = 1,
) -> Path:
    """A checkpoint in `folder`, whose net is far from answering alike for all images."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = replace(recipe, classes=len(classes))
    weights = OneDevice(recipe, seed=seed, device=CPU).gather()
    scale = {"fc8.weight": 20.0} | {name: 0.1 for name in weights if name.endswith(".bias")}
    full = reference_shapes(replace(recipe, width=1.0))  # for which the recipe's deviations are, as these shall be
    for name in (name for name in weights if name.endswith(".weight")):
        weights[name] = weights[name] * (weights[name][0].numel() / math.prod(full[name][1:])) ** 0.5
    weights = {name: weight * scale.get(name, 10.0) for name, weight in weights.items()}
    state = State(
        epoch=1, first=0, step=step, seed=seed, recipe=recipe, dataset="ab" * 16, class_names=classes, threads=1
    )
    mean = None if mean_hwc is None else torch.tensor(mean_hwc)
    return checkpoint.save(folder, Checkpoint(state, weights, {}, mean))


def crops(picture: npt.NDArray[np.uint8], size: int) -> list[npt.NDArray[np.uint8]]:
    """The paper's ten, the centre first."""
    far, middle = 256 - size, (256 - size) // 2
    offsets = [(middle, middle), (0, 0), (0, far), (far, 0), (far, far)]
    cut = [picture[top : top + size, left : left + size] for top, left in offsets]
    return cut + [view[:, ::-1] for view in cut]


def plain_pixels(views: list[npt.NDArray[np.uint8]], mean_hwc: npt.NDArray[np.float32], recipe: Recipe) -> torch.Tensor:
    """float64 n x 3 x 227 x 227: less the centre of the mean image, scaled, zeros at the right and bottom."""
    size, low = recipe.crop, (256 - recipe.crop) // 2
    less = np.array(views).astype(np.float64) - mean_hwc[low : low + size, low : low + size]
    padded = np.zeros((len(views), 227, 227, 3))
    padded[:, :size, :size] = less * recipe.test_scale
    return torch.from_numpy(padded.transpose(0, 3, 1, 2).copy())


def plain_probabilities(
    path: Path, pictures: list[npt.NDArray[np.uint8]], mean_hwc: npt.NDArray[np.float32]
) -> dict[int, Array]:
    """float64 n x classes by number of views: softmax of each view, then their mean."""
    weights, recipe = _weights_and_recipe(path)
    weights = {name: weight.float() for name, weight in weights.items()}  # convolutions in float64 are slow
    by_view = [
        logits(plain_pixels(list(views), mean_hwc, recipe).float(), weights, recipe, Scaling(recipe.dropout))
        .double()
        .softmax(1)
        for views in zip(*(crops(picture, recipe.crop) for picture in pictures), strict=True)
    ]
    return {1: by_view[0].numpy(), 10: torch.stack(by_view).mean(0).numpy()}


def plain_features(
    path: Path, pictures: list[npt.NDArray[np.uint8]], mean_hwc: npt.NDArray[np.float32], layer: str
) -> Array:
    """float64 n x units of the centre views."""
    weights, recipe = _weights_and_recipe(path)
    pixels = plain_pixels([crops(picture, recipe.crop)[0] for picture in pictures], mean_hwc, recipe)
    return hidden(pixels, weights, recipe, Scaling(recipe.dropout), layer).numpy()


def _weights_and_recipe(path: Path) -> tuple[dict[str, torch.Tensor], Recipe]:
    loaded = checkpoint.load(path)
    recipe = replace(SMALL, classes=len(loaded.state.class_names), crop=loaded.state.recipe.crop)
    return {name: weight.double() for name, weight in loaded.weights.items()}, recipe
