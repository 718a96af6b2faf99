"""What crosses between the halves: the numbers as they are computed with, or in half precision as the paper's authors
tried.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Crossing:
    """From the type `computed` to the type `crossing` and back; nothing is done where they are the same.

    Gradients of a mean over a batch are so small that float16 would lose them. They cross as those of the sum, as the
    2012 program had them throughout.
    """

    computed: torch.dtype
    crossing: torch.dtype

    @staticmethod
    def of(exchange: str, computed: torch.dtype) -> "Crossing":
        """As a recipe's `exchange` says."""
        return Crossing(computed, torch.float16 if exchange == "float16" else computed)

    def send(self, activation: Tensor) -> Tensor:
        return activation.to(self.crossing)

    def receive(self, activation: Tensor) -> Tensor:
        return activation.to(self.computed)

    def send_gradient(self, gradient: Tensor) -> Tensor:
        return gradient if self._is_same else (gradient * len(gradient)).to(self.crossing)

    def receive_gradient(self, gradient: Tensor) -> Tensor:
        return gradient if self._is_same else gradient.to(self.computed) / len(gradient)

    @property
    def _is_same(self) -> bool:
        return self.computed == self.crossing
