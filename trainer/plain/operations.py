"""Operations that torch.nn lacks, each made of those it has."""

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Local response normalisation over the channels of each column, x / (k + alpha * sum of squares)^beta.

    torch.nn divides alpha by the window's size, which is multiplied in here. float16 is widened: squares overflow it.
    """

    def __init__(self, columns: int, size: int, k: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.columns = columns
        self.norm = nn.LocalResponseNorm(size, alpha * size, beta, k)

    def forward(self, x: Tensor) -> Tensor:
        parts = wide(x).chunk(self.columns, dim=1)
        return torch.cat([self.norm(part) for part in parts], dim=1).to(x.dtype)


class MapNorm(nn.Module):
    """Local response normalisation within each map, x / (1 + alpha * sum of squares over size x size)^beta."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(size, stride=1, padding=size // 2)  # zeros beyond the edges count
        self.factor, self.beta = alpha * size**2, beta

    def forward(self, x: Tensor) -> Tensor:
        y = wide(x)
        scale: Tensor = (1 + self.factor * self.mean(y * y)) ** self.beta
        return (y / scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}, beta={self.beta:g}"


class PaperDropout(nn.Dropout):
    """Dropout of the paper, section 4.2: masks without scaling in training, outputs times 1 - p in test."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 - self.p)


class GroupedLinear(nn.Linear):
    """A Linear by group: inputs and outputs are divided as a Conv2d's channels are; weight is out x in / groups."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs // groups, outputs)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(x.chunk(self.groups, 1), self.weight.chunk(self.groups), self.bias.chunk(self.groups), strict=True)
        return torch.cat([nn.functional.linear(*part) for part in parts], dim=1)


class HalfExchange(nn.Module):
    """Inputs of each half as two GPUs have them that exchange float16: the own half as it is, the other's rounded.

    forward   n x c x ... to n x 2c x ..., or n x c x ... for a layer that lies in the first half alone
    """

    def __init__(self, halves: int) -> None:
        super().__init__()
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        crossed_first, crossed_second = (part.to(torch.float16).to(x.dtype) for part in (first, second))
        return torch.cat([first, crossed_second, crossed_first, second][: 2 * self.halves], dim=1)


def wide(x: Tensor) -> Tensor:
    """x in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
