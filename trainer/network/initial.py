"""Initial weights, each tensor drawn on the CPU from (seed, its name): the same for every placement."""

import dataclasses
import hashlib
import math

import torch
from torch import Tensor

from trainer.network.model import reference_shapes
from trainer.recipes.recipe import Recipe


def initial_tensors(recipe: Recipe, *, seed: int) -> dict[str, Tensor]:
    """The reference's tensors, float32: weights from N(0, std), constant biases.

    A number as std is that of width 1. In a narrower layer, which sums fewer inputs, it grows so that the sums spread
    alike: else signals fade from layer to layer, and learning may not begin.
    """
    tensors, at_width_1 = {}, reference_shapes(dataclasses.replace(recipe, width=1.0))
    layers = {layer.name: layer for layer in recipe.layers}
    for name, shape in reference_shapes(recipe).items():
        layer_name, kind = name.split(".")
        layer = layers[layer_name]
        if kind == "bias":
            tensors[name] = torch.full(shape, layer.bias)
        else:
            inputs = math.prod(shape[1:])
            widening = math.prod(at_width_1[name][1:]) / inputs
            std = math.sqrt(2 / inputs) if layer.weight_std == "he" else layer.weight_std * math.sqrt(widening)
            tensors[name] = torch.empty(shape).normal_(0, std, generator=_generator(seed, name))
    return tensors


def _generator(*key: int | str) -> torch.Generator:
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
