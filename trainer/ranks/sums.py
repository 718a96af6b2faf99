"""Sums in a fixed pairwise tree: ((0 + 1) + (2 + 3)) + .., whose bits depend on the terms and their order alone.

So ranks' sums, each over its own consecutive parts, add up to the sum over all parts, bit for bit, if both numbers are
powers of two.
"""

import torch
from torch import Tensor


def dtype_of_sums(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def tree(terms: Tensor) -> Tensor:
    """The sum of 2^k rows, float32 or float64."""
    while len(terms) > 1:
        left, right = terms[0::2], terms[1::2]
        terms = left.to(dtype_of_sums(terms.dtype)) + right
    return terms[0].to(dtype_of_sums(terms.dtype))


class TreeSum:
    """The same sum of tensors that come one by one, in log2(their number) buffers of fixed addresses."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._added = 0

    def add(self, term: Tensor) -> Tensor:
        """Add a term, which may change afterwards; return the sum so far if 2^k were added, else part of it."""
        number, self._added = self._added, self._added + 1
        depth = number.bit_count()
        if number % 2 == 0:
            if depth == len(self._buffers):
                self._buffers.append(torch.empty_like(term, dtype=dtype_of_sums(term.dtype)))
            return self._buffers[depth].copy_(term)
        self._buffers[depth - 1].add_(term)
        while number & 2:
            number >>= 1
            depth -= 1
            self._buffers[depth - 1].add_(self._buffers[depth])
        return self._buffers[depth - 1]

    def restart(self) -> None:
        self._added = 0
