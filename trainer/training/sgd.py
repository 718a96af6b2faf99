"""The paper's update rule (section 5). Unlike torch.optim.SGD's it has the learning rate inside the velocity,

    v = momentum v - weight_decay lr w - lr g
    w = w + v

so that after a drop of the rate the velocity keeps the old one.

On a GPU a kernel reads the rates from memory, so that a CUDA graph follows the schedule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainer.device.graphs import GraphRunner
from trainer.device.streams import Side, Streams
from trainer.kernels import kernels_for
from trainer.network.parameters import Parameter


@dataclass(frozen=True, slots=True, eq=False)
class _DeviceGroup:
    side: Side
    parameters: list[Parameter]
    rates: Tensor

    @property
    def is_fused(self) -> bool:
        return kernels_for(self.parameters[0].weight) is not None


class Sgd:
    """Updates the weights of `parameters` in place, on their devices.

    velocities     by parameter, zero at the start; the optimiser's whole state
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        momentum: float,
        weight_decay: float,
        decay_biases: bool,
        streams: Streams | None = None,
        graphs: bool = False,
    ) -> None:
        self._momentum, self._weight_decay, self._decay_biases = momentum, weight_decay, decay_biases
        self._parameters = parameters
        self.velocities = {parameter: torch.zeros_like(parameter.weight) for parameter in parameters}
        streams = streams or Streams()
        by_device: dict[torch.device, list[Parameter]] = {}
        for parameter in parameters:
            by_device.setdefault(parameter.weight.device, []).append(parameter)
        self._groups = [
            _DeviceGroup(Side(streams, device, f"update {device}"), members, torch.zeros(len(members), device=device))
            for device, members in by_device.items()
        ]
        self._runner = GraphRunner(streams, [group.side for group in self._groups], recorded=graphs)
        self._rates: Mapping[str, float] = {}

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """Update from the parameters' gradients, each at the rate of its reference name; rate 0 changes nothing.

        As if queued on each device's current stream.
        """
        if rates != self._rates:
            self._rates = dict(rates)
            for group in self._groups:
                group.rates.copy_(torch.tensor([rates[parameter.name] for parameter in group.parameters]))
        addresses = tuple(_gradient(each).data_ptr() for each in self._parameters)
        in_the_graph = tuple(rates.values()) if any(not group.is_fused for group in self._groups) else ()
        self._runner.run(self._update, constants=(addresses, in_the_graph))

    def _update(self, _inputs: Sequence[Tensor]) -> None:
        for group in self._groups:
            work = self._with_kernel if group.is_fused else self._with_torch
            self._runner.piece(group.side.stream, "update", partial(work, group))

    def _with_kernel(self, group: _DeviceGroup) -> None:
        module = kernels_for(group.parameters[0].weight)
        assert module is not None
        for index, parameter in enumerate(group.parameters):
            velocity, gradient = self.velocities[parameter], _gradient(parameter)
            decay = self._decay(parameter)
            weight, operand = parameter.weight, parameter.operand
            module.update(weight, velocity, gradient, operand, group.rates[index], self._momentum, decay)

    def _with_torch(self, group: _DeviceGroup) -> None:
        for (rate, decay), members in self._alike(group.parameters).items():
            weights = [parameter.weight for parameter in members]
            velocities = [self.velocities[parameter] for parameter in members]
            gradients = [_gradient(parameter).to(parameter.weight.dtype) for parameter in members]
            torch._foreach_mul_(velocities, self._momentum)
            if decay:
                torch._foreach_add_(velocities, weights, alpha=-decay * rate)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(weights, velocities)
            for parameter in members:
                parameter.sync_operand()

    def _alike(self, group: Sequence[Parameter]) -> dict[tuple[float, float], list[Parameter]]:
        """Parameters by (rate, weight decay), without those of rate 0."""
        alike: dict[tuple[float, float], list[Parameter]] = {}
        for parameter in group:
            if rate := self._rates[parameter.name]:
                alike.setdefault((rate, self._decay(parameter)), []).append(parameter)
        return alike

    def _decay(self, parameter: Parameter) -> float:
        return self._weight_decay if self._decay_biases or not parameter.name.endswith(".bias") else 0.0


def _gradient(parameter: Parameter) -> Tensor:
    assert parameter.gradient is not None, f"{parameter.name} has no gradient"
    return parameter.gradient
