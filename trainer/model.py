"""AlexNet as mathematics: two columns that meet at conv3, fc6, fc7 and fc8. No device is named, nothing is placed.

This is the reference that the two halves are held to, and what a single device runs. The columns are the two groups of
a grouped convolution; a layer that reads both is an ordinary one. Channels 0..C/2 - 1 are half 0's, the rest half 1's.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.dropout import Dropout
from trainer.initial import initial_tensors
from trainer.lrn import Norm, normalise
from trainer.recipe import CONVS, FCS, LAYERS, Op, Recipe

HALVES = 2


class Convolution(NamedTuple):
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


CONVOLUTIONS = {
    "conv1": Convolution(11, stride=4),
    "conv2": Convolution(5, padding=2, groups=HALVES),
    "conv3": Convolution(3, padding=1),
    "conv4": Convolution(3, padding=1, groups=HALVES),
    "conv5": Convolution(3, padding=1, groups=HALVES),
}
POOLED_SIZE = 6  # height and width of conv5's pooled maps: 227 -> 55 -> 27 -> 13 -> 6


def reference_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 16 parameters, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for layer, channels in zip(CONVS, recipe.channels, strict=True):
        kernel, _, _, groups = CONVOLUTIONS[layer]
        shapes[f"{layer}.weight"] = (HALVES * channels, inputs // groups, kernel, kernel)
        shapes[f"{layer}.bias"] = (HALVES * channels,)
        inputs = HALVES * channels
    inputs *= POOLED_SIZE**2
    for layer, outputs in zip(FCS, (HALVES * recipe.fc_units, HALVES * recipe.fc_units, recipe.classes), strict=True):
        shapes[f"{layer}.weight"] = (outputs, inputs)
        shapes[f"{layer}.bias"] = (outputs,)
        inputs = outputs
    return shapes


def convolve(layer: str, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """The layer's convolution with any block of its weights; n x c x h x w with the channels last in memory.

    In that layout a CPU's convolutions and poolings measure up to three times, and up to ten times, as fast.
    """
    _, stride, padding, _ = CONVOLUTIONS[layer]
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups)


def after_convolution(layer: str, x: Tensor, recipe: Recipe, groups: int) -> Tensor:
    """What follows a convolution before the next layer: ReLU, normalisation, pooling, in the recipe's order.

    groups   1 where x is one half's maps, 2 where it is both halves'
    """
    ops: dict[str, tuple[Op, ...]] = {
        "conv1": recipe.conv1_block,
        "conv2": recipe.conv2_block,
        "conv5": recipe.conv5_block,
    }
    for op in ops.get(layer, ("relu",)):
        x = _apply(op, x, recipe, groups)
    return x.flatten(1) if layer == CONVS[-1] else x


def _apply(op: Op, x: Tensor, recipe: Recipe, groups: int) -> Tensor:
    if op == "relu":
        return relu(x)
    if op == "lrn":
        return normalise(x, Norm("channels", recipe.lrn_size, recipe.lrn_k, recipe.lrn_alpha, recipe.lrn_beta), groups)
    if op == "spatial":
        return normalise(x, Norm("maps", recipe.spatial_size, 1.0, recipe.spatial_alpha, recipe.spatial_beta))
    return F.max_pool2d(x, kernel_size=3, stride=2)


def relu(x: Tensor) -> Tensor:
    """In place where autograd permits: neither a convolution nor a pooling keeps its own output."""
    return F.relu(x, inplace=not (x.is_leaf and x.requires_grad))


class AlexNet(nn.Module):
    """16 parameters, conv1.weight to fc8.bias, initialised from (seed, name) as the recipe says."""

    def __init__(self, recipe: Recipe, *, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.recipe = recipe
        tensors = initial_tensors(recipe, reference_shapes(recipe), seed=seed)
        for layer in LAYERS:
            module = nn.Module()
            module.weight = nn.Parameter(tensors[f"{layer}.weight"].to(dtype))
            module.bias = nn.Parameter(tensors[f"{layer}.bias"].to(dtype))
            self.add_module(layer, module)

    def forward(self, x_nchw: Tensor, dropout: Dropout) -> Tensor:
        """Logits, n x classes, of pixels n x 3 x 227 x 227."""
        x = x_nchw
        for layer in CONVS:
            weight, bias = self._tensors(layer)
            x = convolve(layer, x, weight, bias, CONVOLUTIONS[layer].groups)
            x = after_convolution(layer, x, self.recipe, groups=HALVES)
        for layer in FCS[:-1]:
            x = relu(F.linear(x, *self._tensors(layer)))
            x = torch.cat([dropout(part, layer, half) for half, part in enumerate(x.chunk(HALVES, dim=1))], dim=1)
        return F.linear(x, *self._tensors(FCS[-1]))

    def _tensors(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.get_parameter(f"{layer}.weight"), self.get_parameter(f"{layer}.bias")


@torch.no_grad()
def loss_and_error(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """What a training step tells: the loss, and the share of n x classes logits whose largest is not the label's."""
    return torch.stack((loss, (logits.argmax(dim=1) != labels).to(loss.dtype).mean()))
