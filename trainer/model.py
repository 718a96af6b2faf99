"""AlexNet as mathematics: two columns that meet at conv3, fc6, fc7 and fc8. No device is named, nothing is placed.

This is the reference that the two halves are held to, and what a single device runs. The columns are the two groups of
a grouped convolution; a layer that reads both is an ordinary one. Channels 0..C/2 - 1 are half 0's, the rest half 1's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.activation import relu, with_bias
from trainer.dropout import Dropout
from trainer.lrn import Norm, normalise
from trainer.pooling import max_pool
from trainer.recipe import CONV1_STRIDE, CONVS, FCS, Op, Recipe

HALVES = 2


class Convolution(NamedTuple):
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


CONVOLUTIONS = {
    "conv1": Convolution(11, stride=CONV1_STRIDE),
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


def convolve(layer: str, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The layer's convolution with any block of its weights; n x c x h x w with the channels last in memory.

    In that layout a CPU's convolutions and poolings measure up to three times, and up to ten times, as fast, and it is
    what a GPU's tensor cores read. There a convolution for each group is up to fourteen times as fast as a grouped one.
    """
    _, stride, padding, _ = CONVOLUTIONS[layer]
    if stride > 1:
        weight = space_to_depth(weight, stride)
        x, stride = x if x.shape[1] == weight.shape[1] else space_to_depth(x, stride), 1
    x = x.contiguous(memory_format=torch.channels_last)
    if groups > 1 and x.is_cuda:
        parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), strict=True)
        return torch.cat([F.conv2d(part, filters, stride=stride, padding=padding) for part, filters in parts], dim=1)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """n x c x h x w to n x (side side c) x h / side x w / side, zeros added at the right and bottom where needed.

    A convolution with that stride is one of stride 1 between pictures and filters so folded. Conv1's 3 channels
    become 48 and its 11 x 11 filters 3 x 3, a shape that tensor cores take: five times as fast on a H200.
    """
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    n, c, h, w = x.shape
    folded = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side, c).permute(0, 1, 3, 2, 4, 5)
    return folded.reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


def after_convolution(layer: str, x: Tensor, bias: Tensor, recipe: Recipe, groups: int) -> Tensor:
    """What follows a convolution before the next layer: its bias, and ReLU, normalisation, pooling in the recipe's
    order. What can be done in one pass is; x may be overwritten.

    groups   1 where x is one half's maps, 2 where it is both halves'
    """
    ops: dict[str, tuple[Op, ...]] = {
        "conv1": recipe.conv1_block,
        "conv2": recipe.conv2_block,
        "conv5": recipe.conv5_block,
    }
    pending: Tensor | None = bias
    rectified = False
    block = ops.get(layer, ("relu",))
    for op, following in zip(block, (*block[1:], None), strict=True):
        if op == "relu" and following == "lrn":
            rectified = True
            continue
        if op == "relu":
            x = relu(x, pending)
        elif op == "pool":
            x = max_pool(x if pending is None else with_bias(x, pending))
        else:
            x, rectified = normalise(x, norm_of(op, recipe), groups, bias=pending, rectified=rectified), False
        pending = None
    return x.flatten(1) if layer == CONVS[-1] else x


def norm_of(op: Op, recipe: Recipe) -> Norm:
    """The constants of "lrn" and of "spatial"."""
    if op == "lrn":
        return Norm("channels", recipe.lrn_size, recipe.lrn_k, recipe.lrn_alpha, recipe.lrn_beta)
    return Norm("maps", recipe.spatial_size, 1.0, recipe.spatial_alpha, recipe.spatial_beta)


def logits(x_nchw: Tensor, weights: Mapping[str, Tensor], recipe: Recipe, dropout: Dropout) -> Tensor:
    """The reference: n x classes from pixels, as `trainer.net.Pixels` has them, and the 16 tensors by name, all of one
    type.
    """
    x = x_nchw
    for layer in CONVS:
        x = convolve(layer, x, weights[f"{layer}.weight"], CONVOLUTIONS[layer].groups)
        x = after_convolution(layer, x, weights[f"{layer}.bias"], recipe, groups=HALVES)
    for layer in FCS[:-1]:
        x = relu(F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
        x = torch.cat([dropout(part, layer, half) for half, part in enumerate(x.chunk(HALVES, dim=1))], dim=1)
    return F.linear(x, weights["fc8.weight"], weights["fc8.bias"])


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy, computed in float32 at least."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


@torch.no_grad()
def loss_and_error(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """What a training step tells: the loss, and the share of n x classes logits whose largest is not the label's."""
    return torch.stack((loss, (logits.argmax(dim=1) != labels).to(loss.dtype).mean()))
