"""Initial weights. Each tensor is drawn from (seed, its name) on the CPU in float32: the same for every placement."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.draws import generator
from trainer.recipe import LAYERS, Recipe


def initial_tensors(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    """float32 tensors of `shapes`: weights from N(0, std), constant biases."""
    tensors = {}
    for name, shape in shapes.items():
        layer, kind = name.split(".")
        position = LAYERS.index(layer)
        if kind == "bias":
            tensors[name] = torch.full(shape, recipe.bias_start[position])
        else:
            std = recipe.weight_std[position] if recipe.weight_std else math.sqrt(2 / math.prod(shape[1:]))
            draws = generator(torch.device("cpu"), seed, name)
            tensors[name] = torch.empty(shape).normal_(0, std, generator=draws)
    return tensors
