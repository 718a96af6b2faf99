"""AlexNet as mathematics: two columns that meet at conv3, fc6, fc7 and fc8. No device is named, nothing is placed.

This is the reference that the two halves are held to, and what a single device runs. The columns are the two groups of
a grouped convolution; a layer that reads both is an ordinary one. Channels 0..C/2 - 1 are half 0's, the rest half 1's.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.activation import relu, with_bias
from trainer.convolution import CONVOLUTIONS, HALVES, convolve
from trainer.dropout import Dropout
from trainer.lrn import Norm, normalise
from trainer.pooling import max_pool
from trainer.recipe import CONVS, FCS, Op, Recipe

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
