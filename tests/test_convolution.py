"""Folded convolutions are the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trainer.convolution import CONVOLUTIONS, FoldedTwice, convolve, space_to_depth


@pytest.mark.parametrize("size", [227, 228])
def test_conv1_of_folded_pictures_is_a_convolution_of_stride_four(size: int) -> None:
    x = F.pad(torch.randn(2, 3, 227, 227, dtype=torch.float64), (0, size - 227, 0, size - 227), value=7.0)
    weight = torch.randn(4, 3, 11, 11, dtype=torch.float64)
    expected = F.conv2d(x[:, :, :227, :227], weight, stride=4)
    torch.testing.assert_close(convolve("conv1", x, weight), expected)
    torch.testing.assert_close(convolve("conv1", space_to_depth(x, 4), weight), expected)


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5"])
def test_the_others_are_torch_s(layer: str) -> None:
    kernel, stride, padding, groups = CONVOLUTIONS[layer]
    x = torch.randn(2, 8, 13, 13, dtype=torch.float64)
    weight = torch.randn(6, 8 // groups, kernel, kernel, dtype=torch.float64)
    expected = F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    torch.testing.assert_close(convolve(layer, x, weight, groups), expected)


@given(
    h=st.integers(3, 12),
    w=st.integers(3, 12),
    inputs=st.sampled_from((1, 3)),
    outputs=st.sampled_from((1, 4)),
    n=st.integers(1, 3),
)
def test_the_gradient_of_filters_folded_twice_is_that_of_the_filters(
    h: int, w: int, inputs: int, outputs: int, n: int
) -> None:
    draws = torch.Generator().manual_seed(h + 13 * w)
    x = torch.randn(n, inputs, h, w, dtype=torch.float64, generator=draws)
    weight = torch.randn(outputs, inputs, 3, 3, dtype=torch.float64, generator=draws).requires_grad_()
    expected = F.conv2d(x, weight)
    found = FoldedTwice.apply(x, weight)  # type: ignore[no-untyped-call]
    g = torch.randn(expected.shape, dtype=torch.float64, generator=draws)
    assert torch.equal(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, weight, g)[0] for y in (found, expected)))
