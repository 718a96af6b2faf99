"""The placement of layers and weights on the two halves, which follows from what each layer reads. AlexNet's:

    layer            on      reads        a half's blocks of the weight
    conv1            0, 1    the image    own rows
    conv2, 4, 5      0, 1    its own      own rows
    conv3, fc6, fc7  0, 1    both         own rows x own columns, own rows x peer's columns
    fc8              0       both         all rows x own columns, all rows x peer's columns

A layer that reads both computes W_own x_own + W_peer x_peer + bias. No weight is kept twice, so no weight gradient is
exchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.device.devices import HALVES
from trainer.network.model import after_convolution, linear
from trainer.network.parameters import Block, Parameter
from trainer.ops.activation import activate
from trainer.ops.convolution import convolve
from trainer.ops.dropout import Dropout
from trainer.recipes.layers import Conv, Layer
from trainer.recipes.recipe import Recipe


def halves_with(layer: Layer, recipe: Recipe) -> tuple[int, ...]:
    return (0,) if layer is recipe.fc[-1] else (0, 1)


class Segment(NamedTuple):
    """Consecutive layers of which only the first may read the other half.

    number   index of its first layer
    on       the halves that compute it
    """

    number: int
    layers: tuple[Layer, ...]
    on: tuple[int, ...]

    @property
    def first(self) -> Layer:
        return self.layers[0]

    @property
    def exchanges(self) -> bool:
        return self.first.reads == "both"


def segments(recipe: Recipe) -> tuple[Segment, ...]:
    """The recipe's layers cut before each exchange: conv1-2 | conv3-5 | fc6 | fc7 | fc8."""
    cut: list[Segment] = []
    for number, layer in enumerate(recipe.layers):
        if layer.reads == "own":
            cut[-1] = cut[-1]._replace(layers=(*cut[-1].layers, layer))
        else:
            cut.append(Segment(number, (layer,), halves_with(layer, recipe)))
    return tuple(cut)


@dataclass(frozen=True, slots=True)
class Weights:
    own: Parameter
    bias: Parameter
    peer: Parameter | None


class Half:
    def __init__(
        self, half: int, recipe: Recipe, reference: dict[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.half, self.device = half, device
        self._recipe = recipe
        self._weights: dict[str, Weights] = {}
        self.parameters: list[Parameter] = []
        shapes = {name: tensor.shape for name, tensor in reference.items()}
        for layer in recipe.layers:
            if half in halves_with(layer, recipe):
                blocks = blocks_of(layer, half, recipe, shapes)
                own, bias, *peer = (Parameter(block, reference[block.name], device, dtype) for block in blocks)
                self.parameters += [own, bias, *peer]
                self._weights[layer.name] = Weights(own, bias, peer[0] if peer else None)

    def weights(self, layer: Layer) -> Weights:
        return self._weights[layer.name]

    def of(self, segment: Segment) -> list[Parameter]:
        weights = [self.weights(layer) for layer in segment.layers]
        return [each for layer in weights for each in (layer.own, layer.bias, layer.peer) if each is not None]

    def own(self, layer: Layer, x: Tensor) -> Tensor:
        """The own inputs' part of the layer's outputs, before bias and activation."""
        return _linear_map(layer, x, self.weights(layer).own.operand)

    def peer(self, layer: Layer, x: Tensor) -> Tensor:
        peer = self.weights(layer).peer
        assert peer is not None
        return _linear_map(layer, x, peer.operand)

    def finish(self, segment: Segment, z: Tensor, dropout: Dropout) -> Tensor:
        """The segment's output from z = own + peer."""
        x = self._after(segment.first, segment.number, z, dropout)
        for number, layer in enumerate(segment.layers[1:], segment.number + 1):
            x = self._after(layer, number, self.own(layer, x), dropout)
        return x

    def _after(self, layer: Layer, number: int, z: Tensor, dropout: Dropout) -> Tensor:
        bias = self.weights(layer).bias.operand
        if isinstance(layer, Conv):
            return after_convolution(layer, z, bias, self._recipe, groups=1)
        z = z + bias
        if layer is self._recipe.fc[-1]:
            return z
        return dropout(activate(z, self._recipe.activation), number, self.half)


def blocks_of(layer: Layer, half: int, recipe: Recipe, shapes: Mapping[str, Sequence[int]]) -> list[Block]:
    """Own weight, bias and, if the layer reads both, the peer's weight."""
    weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
    is_divided = len(halves_with(layer, recipe)) == HALVES
    rows = _share(shapes[weight][0], half) if is_divided else slice(None)
    if layer.reads != "both":
        return [Block(weight, (rows,)), Block(bias, (rows,))]
    own, peer = (_share(shapes[weight][1], source) for source in (half, 1 - half))
    return [Block(weight, (rows, own)), Block(bias, (rows,)), Block(weight, (rows, peer))]


def _share(count: int, half: int) -> slice:
    size = count // HALVES
    return slice(half * size, (half + 1) * size)


def _linear_map(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    return convolve(layer, x, weight) if isinstance(layer, Conv) else linear(x, weight)
