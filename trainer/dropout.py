"""Dropout of the paper (section 4.2), not the inverted kind: a mask in training, a factor in test.

A mask is a function of (seed, step, layer, half): the two halves draw what the reference draws, and a resumed run needs
no generator's state.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.draws import generator


@dataclass(frozen=True, slots=True)
class Masking:
    """Mask each output with probability `rate`; the masks are those of step `step` of the run seeded with `seed`."""

    rate: float
    seed: int
    step: int

    def __call__(self, x: Tensor, layer: str, half: int) -> Tensor:
        """Drop outputs of one half of a layer, n x units."""
        draws = generator(x.device, self.seed, self.step, layer, half)
        kept = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - self.rate, generator=draws)
        return x * kept


@dataclass(frozen=True, slots=True)
class Scaling:
    """Multiply by the share of outputs that training keeps."""

    rate: float

    def __call__(self, x: Tensor, layer: str, half: int) -> Tensor:
        """Scale outputs of one half of a layer, n x units."""
        return x * (1 - self.rate)


Dropout = Masking | Scaling
