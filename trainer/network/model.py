"""AlexNet as mathematics: the reference for the two halves, and what a single device runs.

Its columns are the groups of a grouped convolution or product: channels 0..C/2 - 1 are half 0's. A layer that reads
both is not grouped.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UsageError
from trainer.ops.activation import activate, with_bias
from trainer.ops.convolution import convolve
from trainer.ops.dropout import Dropout
from trainer.ops.lrn import normalise
from trainer.ops.pooling import max_pool
from trainer.recipes.layers import Conv, Layer, Norm, Op
from trainer.recipes.recipe import Recipe


def groups_of(layer: Layer, recipe: Recipe) -> int:
    return recipe.columns if layer.reads == "own" else 1


def reference_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """The parameters' names and shapes, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for layer in recipe.layers:
        outputs = recipe.outputs(layer) * (1 if layer is recipe.fc[-1] else recipe.columns)
        group_inputs = inputs // groups_of(layer, recipe)
        kernel = (layer.kernel, layer.kernel) if isinstance(layer, Conv) else ()
        shapes[f"{layer.name}.weight"] = (outputs, group_inputs, *kernel)
        shapes[f"{layer.name}.bias"] = (outputs,)
        inputs = outputs * (recipe.map_sizes()[-1] ** 2 if layer is recipe.conv[-1] else 1)
    return shapes


def after_convolution(conv: Conv, x: Tensor, bias: Tensor, recipe: Recipe, groups: int) -> Tensor:
    """Bias, the operations of `conv.then`, and flattening of the last maps; x may be overwritten.

    groups   1 if x is one half's maps, 2 if both halves'
    """
    to_add: Tensor | None = bias
    ops: Sequence[Op] = conv.then
    while ops:
        match ops:
            case ("activation", "lrn", *ops) if recipe.activation == "relu":
                x = normalise(x, norm_of("lrn", recipe), groups, bias=to_add, rectified=True)
            case ("activation", *ops):
                x = activate(x, recipe.activation, to_add)
            case ("pool", *ops):
                x = max_pool(with_bias(x, to_add), recipe.pool_size, recipe.pool_stride)
            case (norm, *ops):
                x = normalise(x, norm_of(norm, recipe), groups, bias=to_add)
        to_add = None
    x = with_bias(x, to_add)
    return x.flatten(1) if conv.name == recipe.conv[-1].name else x


def norm_of(op: Op, recipe: Recipe) -> Norm:
    if op == "lrn":
        return Norm("channels", recipe.lrn_size, recipe.lrn_k, recipe.lrn_alpha, recipe.lrn_beta)
    return Norm("maps", recipe.spatial_size, 1.0, recipe.spatial_alpha, recipe.spatial_beta)


def logits(x_nchw: Tensor, weights: Mapping[str, Tensor], recipe: Recipe, dropout: Dropout) -> Tensor:
    """The reference: n x classes from `net.Pixels` and tensors by name, of one dtype."""
    x = hidden(x_nchw, weights, recipe, dropout)
    last = recipe.fc[-1].name
    return F.linear(x, weights[f"{last}.weight"], weights[f"{last}.bias"])


def hidden(
    x_nchw: Tensor, weights: Mapping[str, Tensor], recipe: Recipe, dropout: Dropout, upto: str | None = None
) -> Tensor:
    """Outputs of the hidden fc layer `upto`, n x units; by default the last."""
    x = x_nchw
    for conv in recipe.conv:
        groups = groups_of(conv, recipe)
        x = convolve(conv, x, weights[f"{conv.name}.weight"], groups)
        x = after_convolution(conv, x, weights[f"{conv.name}.bias"], recipe, groups=recipe.columns)
    for number, layer in enumerate(recipe.fc[:-1], len(recipe.conv)):
        weight, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
        x = linear(x, weight, groups_of(layer, recipe), bias)
        parts = activate(x, recipe.activation).chunk(recipe.columns, dim=1)
        x = torch.cat([dropout(part, number, half) for half, part in enumerate(parts)], dim=1)
        if layer.name == upto:
            break
    return x


def check_hidden(layer: str, recipe: Recipe) -> None:
    """Raise UsageError unless this is a hidden fc layer."""
    names = [hidden.name for hidden in recipe.fc[:-1]]
    if layer not in names:
        raise UsageError(f"there is no layer {layer} with features; recipe {recipe.name} has {' and '.join(names)}")


def linear(x: Tensor, weight: Tensor, groups: int = 1, bias: Tensor | None = None) -> Tensor:
    """x times the transposed weight, plus bias, by group."""
    if groups == 1:
        return F.linear(x, weight, bias)
    parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), strict=True)
    y = torch.cat([F.linear(part, rows) for part, rows in parts], dim=1)
    return y if bias is None else y + bias


def loss_of(logits: Tensor, labels: Tensor, whole: int) -> Tensor:
    """The cross entropies' sum over `whole`, the size of the batch of which this is all or a part."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _share(F.cross_entropy(logits, labels, reduction="sum"), whole)


@torch.no_grad()
def loss_and_error(loss: Tensor, logits: Tensor, labels: Tensor, whole: int) -> Tensor:
    """The loss, and the wrong top-1 answers over `whole`."""
    wrong = (logits.argmax(dim=1) != labels).to(loss.dtype).sum()
    return torch.stack((loss, _share(wrong, whole)))


def _share(total: Tensor, whole: int) -> Tensor:
    return total / torch.full_like(total, whole)  # as a mean does; by a number, a GPU would multiply by its reciprocal
