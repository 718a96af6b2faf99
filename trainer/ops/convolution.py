"""Convolutions. Conv1's is folded: 3 channels, 11 x 11 filters and stride 4 suit no tensor core; 48, 3 x 3 and 1 do."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.recipes.layers import Conv


def convolve(conv: Conv, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The layer's convolution with any block of its weights, n x c x h x w, channels last as tensor cores need."""
    stride = conv.stride
    if conv.reads == "image":
        weight, stride = space_to_depth(weight, conv.stride), 1
        x = x if x.shape[1] == weight.shape[1] else space_to_depth(x, conv.stride)
    x = x.contiguous(memory_format=torch.channels_last)
    if groups > 1 and x.is_cuda:
        parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), strict=True)
        return torch.cat([F.conv2d(part, w, stride=stride, padding=conv.padding) for part, w in parts], dim=1)
    return F.conv2d(x, weight, stride=stride, padding=conv.padding, groups=groups)


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """Fold n x c x h x w to n x (side side c) x h / side x w / side, zero-padded at the right and bottom."""
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    n, c, h, w = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side, c).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


def depth_to_space(x: Tensor, side: int) -> Tensor:
    """The inverse of `space_to_depth`."""
    n, channels, h, w = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(n, h, w, side, side, channels // side**2).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, h * side, w * side, -1).permute(0, 3, 1, 2)
