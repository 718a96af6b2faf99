"""Folded convolutions are the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from trainer.ops.convolution import convolve, space_to_depth
from trainer.recipes.named import PAPER

CONVS = {conv.name: conv for conv in PAPER.conv}


@pytest.mark.parametrize("size", [227, 228])
def test_conv1_of_folded_pictures_is_a_convolution_of_stride_four(size: int) -> None:
    x = F.pad(torch.randn(2, 3, 227, 227, dtype=torch.float64), (0, size - 227, 0, size - 227), value=7.0)
    weight = torch.randn(4, 3, 11, 11, dtype=torch.float64)
    expected = F.conv2d(x[:, :, :227, :227], weight, stride=4)
    torch.testing.assert_close(convolve(CONVS["conv1"], x, weight), expected)
    torch.testing.assert_close(convolve(CONVS["conv1"], space_to_depth(x, 4), weight), expected)


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5"])
def test_the_others_are_torch_s(layer: str) -> None:
    conv = CONVS[layer]
    groups = 2 if conv.reads == "own" else 1
    x = torch.randn(2, 8, 13, 13, dtype=torch.float64)
    weight = torch.randn(6, 8 // groups, conv.kernel, conv.kernel, dtype=torch.float64)
    expected = F.conv2d(x, weight, stride=conv.stride, padding=conv.padding, groups=groups)
    torch.testing.assert_close(convolve(conv, x, weight, groups), expected)
