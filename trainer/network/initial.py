"""Initial weights. Each tensor is drawn from (seed, its name) on the CPU in float32: the same for every placement."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.network.draws import generator
from trainer.recipes.recipe import Recipe


def initial_tensors(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    """float32 tensors of `shapes`: weights from N(0, std), constant biases."""
    tensors = {}
    layers = {layer.name: layer for layer in recipe.layers}
    for name, shape in shapes.items():
        layer_name, kind = name.split(".")
        layer = layers[layer_name]
        if kind == "bias":
            tensors[name] = torch.full(shape, layer.bias)
        else:
            std = math.sqrt(2 / math.prod(shape[1:])) if layer.weight_std == "he" else layer.weight_std
            draws = generator(torch.device("cpu"), seed, name)
            tensors[name] = torch.empty(shape).normal_(0, std, generator=draws)
    return tensors
