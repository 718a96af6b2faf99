"""The paper's dropout (section 4.2), not the inverted kind: a mask in training, a factor in test.

A mask is Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) of (seed, step, layer, half),
the same on every device. A part of a batch gets its rows of the whole batch's mask. The step and the part's place lie
on the device, so that a replayed CUDA graph draws new masks, for any part.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.device.streams import Streams
from trainer.kernels import kernels_for

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_HIGH = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Masking:
    """Zero each output with probability `rate`.

    seed     0 to 2^63 - 1
    places   by half: the step's number and the batch's first row among the whole's, int64 (2,) on its device
    whole    rows of the batch of which each x is a part; None if x is the whole one
    """

    rate: float
    seed: int
    places: tuple[Tensor, Tensor]
    whole: int | None = None

    @staticmethod
    def at_start(rate: float, seed: int, first: torch.device, second: torch.device) -> "Masking":
        place = torch.zeros(2, dtype=torch.int64, device=first)
        other = place if second == first else torch.zeros(2, dtype=torch.int64, device=second)
        return Masking(rate, seed, (place, other))

    def part_of(self, whole: int | None) -> "Masking":
        return replace(self, whole=whole)

    def move_to(self, step: int, first: int, streams: Streams) -> None:
        """Set step and first row, as if queued on each device's current stream."""
        for place in dict.fromkeys(self.places):
            with streams.on(streams.current(place.device)):
                place[0].fill_(step)
                if self.whole is not None:
                    place[1].fill_(first)

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
        kept = _kept(x, masking, layer, half).view(x.shape).to(x.device)
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
    place, whole = masking.places[half], masking.whole
    y: Tensor = module.drop(x, masking.seed, place, layer, half, masking.threshold, whole)
    return y


def _kept(x: Tensor, masking: Masking, layer: int, half: int) -> Tensor:
    step, row = (int(number) for number in masking.places[half])
    units, whole = x[0].numel(), masking.whole
    first = 0 if whole is None else row * units
    numbers = range(first, first + x.numel())
    words = philox_words(numbers, units * (whole or len(x)), masking.seed, step, 2 * layer + half)
    return torch.from_numpy(words >= masking.threshold)


def philox_words(numbers: range, whole: int, seed: int, step: int, place: int) -> npt.NDArray[np.uint64]:
    """Words, 0 to 2^32 - 1, of these numbers among `whole`.

    Counter (q, low word of step, its high word, place) and key `seed` make four; the k-th is number
    k * ceil(whole / 4) + q.
    """
    quarter = -(-whole // 4)
    if len(numbers) >= quarter:
        four = _philox(np.arange(quarter, dtype=np.uint64), seed, step, place)
        return np.concatenate(four)[numbers.start : numbers.stop]
    k, q = divmod(numbers.start, quarter)
    four = _philox(np.arange(q, q + len(numbers), dtype=np.uint64) % np.uint64(quarter), seed, step, place)
    to_next = quarter - q
    return np.concatenate((four[k][:to_next], four[(k + 1) % 4][to_next:]))


def _philox(c0: npt.NDArray[np.uint64], seed: int, step: int, place: int) -> tuple[npt.NDArray[np.uint64], ...]:
    c1, c2, c3 = (np.full(len(c0), word, np.uint64) for word in (step & _WORD, step >> 32, place))
    for turn in range(_ROUNDS):
        k0, k1 = (_uint64(key + turn * jump) for key, jump in zip((seed & _WORD, seed >> 32), _KEY_STEPS, strict=True))
        product0, product1 = c0 * _uint64(_MULTIPLIERS[0]), c2 * _uint64(_MULTIPLIERS[1])
        c0, c1 = (product1 >> _HIGH) ^ c1 ^ k0, product1 & _uint64(_WORD)
        c2, c3 = (product0 >> _HIGH) ^ c3 ^ k1, product0 & _uint64(_WORD)
    return c0, c1, c2, c3


def _uint64(number: int) -> np.uint64:
    return np.uint64(number & _WORD)
