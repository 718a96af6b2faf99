"""The paper's dropout (section 4.2), not the inverted kind: a mask in training, a factor in test.

A mask is Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) of (seed, step, layer, half),
the same on every device. The step lies on the device, so that a replayed CUDA graph draws new masks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.kernels import kernels_for

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_HIGH = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Masking:
    """Zero each output with probability `rate`.

    seed    0 to 2^63 - 1
    steps   the step's number by half, int64 on its device
    """

    rate: float
    seed: int
    steps: tuple[Tensor, Tensor]

    def __call__(self, x: Tensor, layer: int, half: int) -> Tensor:
        if self.rate == 0:
            return x
        y: Tensor = _Drop.apply(x, self, layer, half)  # type: ignore[no-untyped-call]
        return y

    @property
    def threshold(self) -> int:
        """The lowest word that keeps an element."""
        return round(self.rate * 2**32)


@dataclass(frozen=True, slots=True)
class Scaling:
    rate: float

    def __call__(self, x: Tensor, layer: int, half: int) -> Tensor:
        return x * (1 - self.rate)


Dropout = Masking | Scaling


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, masking: Masking, layer: int, half: int) -> Tensor:
        x = x.contiguous()
        ctx.mask = masking, layer, half
        if kernels_for(x) is not None:
            return _drop(x, masking, layer, half)
        kept = _kept(x.numel(), masking, layer, half).view(x.shape).to(x.device)
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        dx = g * ctx.saved_tensors[0] if ctx.saved_tensors else _drop(g.contiguous(), *ctx.mask)
        return dx, None, None, None


def _drop(x: Tensor, masking: Masking, layer: int, half: int) -> Tensor:
    """Mask on a GPU; backward draws the mask again, which costs less than keeping it."""
    module = kernels_for(x)
    assert module is not None
    y: Tensor = module.drop(x, masking.seed, masking.steps[half], layer, half, masking.threshold)
    return y


def _kept(count: int, masking: Masking, layer: int, half: int) -> Tensor:
    words = philox_words(count, masking.seed, int(masking.steps[half]), 2 * layer + half)
    return torch.from_numpy(words >= masking.threshold)


def philox_words(count: int, seed: int, step: int, place: int) -> npt.NDArray[np.uint64]:
    """`count` words, 0 to 2^32 - 1.

    Counter (q, low word of step, its high word, place) and key `seed` make four; the k-th is number
    k * ceil(count / 4) + q.
    """
    quarter = -(-count // 4)
    c0 = np.arange(quarter, dtype=np.uint64)
    c1, c2, c3 = (np.full(quarter, word, np.uint64) for word in (step & _WORD, step >> 32, place))
    for turn in range(_ROUNDS):
        k0, k1 = (_uint64(key + turn * jump) for key, jump in zip((seed & _WORD, seed >> 32), _KEY_STEPS, strict=True))
        product0, product1 = c0 * _uint64(_MULTIPLIERS[0]), c2 * _uint64(_MULTIPLIERS[1])
        c0, c1 = (product1 >> _HIGH) ^ c1 ^ k0, product1 & _uint64(_WORD)
        c2, c3 = (product0 >> _HIGH) ^ c3 ^ k1, product0 & _uint64(_WORD)
    return np.concatenate((c0, c1, c2, c3))[:count]


def _uint64(number: int) -> np.uint64:
    return np.uint64(number & _WORD)
