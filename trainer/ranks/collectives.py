"""The collectives that carry gradients between ranks, on one device each.

On a GPU they are queued on the current stream, on a CPU the caller waits, or `exchange` returns at once.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.ranks.world import World

_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # by torch's version


class Collectives:
    """Every rank makes the same calls in the same order: of `exchange` and `add`, and, apart from them, of `gather`."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._exchanging = world.new_group(device)
        self._gathering = world.new_group(device) if device.type == "cpu" else self._exchanging

    def exchange(self, received: Tensor, sent: Tensor) -> dist.Work:
        """Send the r-th of as many equal stretches as there are ranks to rank r; receive one from each."""
        return _begun(dist.all_to_all_single(received, sent, group=self._exchanging, async_op=True))

    def gather(self, whole: Tensor, mine: Tensor) -> None:
        """Join all ranks' stretches."""
        _gather(whole, mine, group=self._gathering)

    def add(self, summed: Tensor) -> dist.Work:
        """Sum over all ranks in place, in an order of the library's."""
        return _begun(dist.all_reduce(summed, group=self._exchanging, async_op=True))


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None
    return work
