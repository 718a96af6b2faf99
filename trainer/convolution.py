"""The five convolutions, in the forms that are fast.

Conv1 has 3 channels, 11 x 11 filters and a stride of 4, which suits no tensor core. Pictures and filters are folded:
four by four pixels become one of 48 channels, the filters 3 x 3, the stride 1. For the gradient of those filters two by
two of the folded pixels are folded once more. On a H200 in tf32 the folds make the forward four times as fast.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.fused import kernels
from trainer.recipe import CONV1_STRIDE

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


def convolve(layer: str, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The layer's convolution with any block of its weights; n x c x h x w with the channels last in memory.

    In that layout a CPU's convolutions and poolings measure up to three times, and up to ten times, as fast, and it is
    what a GPU's tensor cores read. There a convolution for each group is up to fourteen times as fast as a grouped one.
    """
    _, stride, padding, _ = CONVOLUTIONS[layer]
    if stride > 1:
        return _folded(x, weight, stride)
    x = x.contiguous(memory_format=torch.channels_last)
    if groups > 1 and x.is_cuda:
        parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), strict=True)
        return torch.cat([F.conv2d(part, filters, padding=padding) for part, filters in parts], dim=1)
    return F.conv2d(x, weight, padding=padding, groups=groups)


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """n x c x h x w to n x (side side c) x h / side x w / side, zeros added at the right and bottom where needed.

    The channels are those of the block's first row, pixel by pixel, then its second's. A convolution with that stride
    is one of stride 1 between pictures and filters so folded.
    """
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    n, c, h, w = x.shape
    folded = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side, c).permute(0, 1, 3, 2, 4, 5)
    return folded.reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


def _folded(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Of pictures as they are or folded already."""
    weight = space_to_depth(weight, stride)
    x = x if x.shape[1] == weight.shape[1] else space_to_depth(x, stride)
    x = x.contiguous(memory_format=torch.channels_last)
    if kernels(x) is None:
        return F.conv2d(x, weight)
    y: Tensor = FoldedTwice.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class FoldedTwice(torch.autograd.Function):
    """A convolution of stride 1 by 3 x 3 filters, which folds two by two pixels for their gradient.

    A reduction over all pixels into few and small filters leaves a GPU's libraries at a loss. Folded, there are four
    times the channels on both sides, 2 x 2 filters, and a quarter of the pixels: with output row h = 2 P + a and input
    row h + u = 2 (P + i) + p, the gradient of filter row u is that of the folded filters at 2 i + p = u + a, summed
    over a; columns alike. There is no gradient by x: it is the image.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.conv2d(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        inputs, outputs = x.shape[1], g.shape[1]
        x, g = space_to_depth(x, 2), space_to_depth(g, 2)
        folded = x.new_empty(4 * outputs, 4 * inputs, 2, 2).contiguous(memory_format=torch.channels_last)
        _, dfolded, _ = torch.ops.aten.convolution_backward(
            g, x, folded, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        )
        # a, b, output, p, q, input, i, j  ->  a, b, output, input, 2 i + p, 2 j + q
        dfolded = dfolded.reshape(2, 2, outputs, 2, 2, inputs, 2, 2).permute(0, 1, 2, 5, 6, 3, 7, 4)
        dfolded = dfolded.reshape(2, 2, outputs, inputs, 4, 4).to(torch.promote_types(g.dtype, torch.float32))
        dweight = sum(dfolded[a, b, :, :, a : a + 3, b : b + 3] for a in range(2) for b in range(2))
        assert isinstance(dweight, Tensor)
        return None, dweight.to(g.dtype)
