"""Where each layer lives, and the blocks of weights that a half keeps.

The table is the whole placement:

    layer   on      reads        a half's block of the weight
    conv1   0, 1    the image    own rows
    conv2   0, 1    its own      own rows
    conv3   0, 1    both         own rows x own columns, own rows x peer's columns
    conv4   0, 1    its own      own rows
    conv5   0, 1    its own      own rows
    fc6     0, 1    both         own rows x own columns, own rows x peer's columns
    fc7     0, 1    both         own rows x own columns, own rows x peer's columns
    fc8     0       both         all rows x own columns, all rows x peer's columns

A layer that reads both computes W_own x_own + W_peer x_peer + bias. Nothing is kept twice, so no weight gradient
crosses.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.activation import relu
from trainer.blocks import Block, Parameter
from trainer.convolution import HALVES, convolve
from trainer.dropout import Dropout
from trainer.model import after_convolution, reference_shapes
from trainer.recipe import CONVS, FCS, LAYERS, Recipe


class Place(NamedTuple):
    reads: Literal["image", "own", "both"]
    on: tuple[int, ...] = (0, 1)


PLACES = {
    "conv1": Place("image"),
    "conv2": Place("own"),
    "conv3": Place("both"),
    "conv4": Place("own"),
    "conv5": Place("own"),
    "fc6": Place("both"),
    "fc7": Place("both"),
    "fc8": Place("both", on=(0,)),
}


class Segment(NamedTuple):
    """Consecutive layers of which only the first reads the other half: autograd works inside, exchanges lie between."""

    layers: tuple[str, ...]

    @property
    def first(self) -> str:
        return self.layers[0]

    @property
    def on(self) -> tuple[int, ...]:
        return PLACES[self.first].on

    @property
    def exchanges(self) -> bool:
        return PLACES[self.first].reads == "both"


def segments() -> tuple[Segment, ...]:
    """conv1-2 | conv3-5 | fc6 | fc7 | fc8, as the table has it."""
    cut: list[tuple[str, ...]] = []
    for layer in LAYERS:
        if PLACES[layer].reads == "own":
            cut[-1] = (*cut[-1], layer)
        else:
            cut.append((layer,))
    return tuple(Segment(layers) for layers in cut)


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's blocks on one half; `peer` is None where the layer does not read the other half."""

    own: Parameter
    bias: Parameter
    peer: Parameter | None


class Half:
    """One half's blocks on its device, and its layers' mathematics; streams and copies are the caller's."""

    def __init__(
        self, half: int, recipe: Recipe, reference: dict[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        """`reference` holds the 16 reference tensors, on the CPU; `dtype` is what to compute in."""
        self.half, self.device = half, device
        self._recipe = recipe
        self._weights: dict[str, Weights] = {}
        self.parameters: list[Parameter] = []
        shapes = reference_shapes(recipe)
        for layer in LAYERS:
            if half in PLACES[layer].on:
                blocks = blocks_of(layer, half, shapes)
                own, bias, *peer = (Parameter(block, reference[block.name], device, dtype) for block in blocks)
                self.parameters += [own, bias, *peer]
                self._weights[layer] = Weights(own, bias, peer[0] if peer else None)

    def weights(self, layer: str) -> Weights:
        return self._weights[layer]

    def own(self, layer: str, x: Tensor) -> Tensor:
        """The layer's outputs, before bias and ReLU, so far as the half's own inputs make them."""
        return _linear_map(layer, x, self._weights[layer].own.operand)

    def peer(self, layer: str, x: Tensor) -> Tensor:
        """What the other half's outputs x add to them."""
        peer = self._weights[layer].peer
        assert peer is not None
        return _linear_map(layer, x, peer.operand)

    def finish(self, segment: Segment, z: Tensor, dropout: Dropout) -> Tensor:
        """The segment's output from its first layer's z = own + peer."""
        x = self._after(segment.first, z, dropout)
        for layer in segment.layers[1:]:
            x = self._after(layer, self.own(layer, x), dropout)
        return x

    def _after(self, layer: str, z: Tensor, dropout: Dropout) -> Tensor:
        bias = self._weights[layer].bias.operand
        if layer in CONVS:
            return after_convolution(layer, z, bias, self._recipe, groups=1)
        z = z + bias
        return z if layer == FCS[-1] else dropout(relu(z), layer, self.half)


def blocks_of(layer: str, half: int, shapes: dict[str, tuple[int, ...]]) -> list[Block]:
    """A half's blocks of a layer: own weight, bias, and the peer's weight where the layer reads both."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    places = PLACES[layer]
    rows = _share(shapes[weight][0], half) if len(places.on) == HALVES else slice(None)
    if places.reads != "both":
        return [Block(weight, (rows,)), Block(bias, (rows,))]
    own, peer = (_share(shapes[weight][1], of) for of in (half, 1 - half))
    return [Block(weight, (rows, own)), Block(bias, (rows,)), Block(weight, (rows, peer))]


def _share(count: int, half: int) -> slice:
    each = count // HALVES
    return slice(half * each, (half + 1) * each)


def _linear_map(layer: str, x: Tensor, weight: Tensor) -> Tensor:
    return convolve(layer, x, weight) if layer in CONVS else F.linear(x, weight)
