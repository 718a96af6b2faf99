"""The paper's update rule (section 5). It is not torch.optim.SGD's: the learning rate is inside the velocity,

    v = momentum v - weight_decay lr w - lr g
    w = w + v

so that after a drop of the rate the steps already under way go on at the old one.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_Group = tuple[list[Tensor], list[Tensor], list[Tensor]]  # weights, velocities, gradients


class Sgd:
    """Updates blocks of weights in place, on whatever devices they lie.

    parameters     (reference name, block), as `Net.parameters_by_name` gives them
    velocities     block -> its velocity, zero at the start; the optimiser's whole state
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        momentum: float,
        weight_decay: float,
        decay_biases: bool,
    ) -> None:
        self._parameters = list(parameters)
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._decay_biases = decay_biases
        self.velocities: dict[nn.Parameter, Tensor] = {
            block: torch.zeros_like(block, requires_grad=False) for _, block in self._parameters
        }

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """Update from the blocks' `.grad`, each at the rate of its reference name.

        A block whose rate is 0 keeps weight and velocity as they are. Queued on each device's current stream.
        """
        for (_, rate, decay), (weights, velocities, gradients) in self._groups(rates).items():
            torch._foreach_mul_(velocities, self._momentum)
            if decay:
                torch._foreach_add_(velocities, weights, alpha=-decay * rate)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(weights, velocities)

    def _groups(self, rates: Mapping[str, float]) -> dict[tuple[torch.device, float, float], _Group]:
        """What shares a device, a rate and a weight decay is updated together."""
        groups: dict[tuple[torch.device, float, float], _Group] = {}
        for name, block in self._parameters:
            if rates[name] == 0:
                continue
            assert block.grad is not None, f"{name} has no gradient"
            decays = self._decay_biases or not name.endswith(".bias")
            key = block.device, rates[name], self._weight_decay if decays else 0.0
            group = groups.setdefault(key, ([], [], []))
            for members, tensor in zip(group, (block, self.velocities[block], block.grad), strict=True):
                members.append(tensor)
        return groups
