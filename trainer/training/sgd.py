"""The paper's update rule (section 5). It is not torch.optim.SGD's: the learning rate is inside the velocity,

    v = momentum v - weight_decay lr w - lr g
    w = w + v

so that after a drop of the rate the steps already under way go on at the old one.

On a GPU one kernel goes once over weights, velocities and gradients, and renews the operands; the rates lie in its
memory, so that a recorded CUDA graph follows the schedule. Elsewhere torch's own operations do the same; the rates are
in their graph, so with others it is another.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from trainer.device.graphs import GraphRunner
from trainer.device.streams import Side, Streams
from trainer.kernels import kernels_for
from trainer.network.parameters import Parameter


class Sgd:
    """Updates the weights of `parameters` in place, on whatever devices they lie.

    velocities     by parameter, zero at the start; the optimiser's whole state
    graphs         replay the update as a CUDA graph, on GPUs
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
        self._places = [
            (Side(streams, device, f"update {device}"), group, torch.zeros(len(group), device=device))
            for device, group in by_device.items()
        ]
        self._runner = GraphRunner(streams, [side for side, _, _ in self._places], recorded=graphs)
        self._rates: Mapping[str, float] = {}

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """Update from the parameters' gradients, each at the rate of its reference name.

        A parameter whose rate is 0 keeps weight and velocity as they are. As if queued on each device's current stream.
        """
        if rates != self._rates:
            self._rates = dict(rates)
            for _, group, on_device in self._places:
                on_device.copy_(torch.tensor([rates[parameter.name] for parameter in group]))
        addresses = tuple(_gradient(each).data_ptr() for each in self._parameters)
        in_the_graph = tuple(rates.values()) if any(not _is_fused(group) for _, group, _ in self._places) else ()
        self._runner.run(self._update, constants=(addresses, in_the_graph))

    def _update(self, _inputs: Sequence[Tensor]) -> None:
        for side, group, on_device in self._places:
            fused = partial(self._with_kernel, group, on_device)
            work = fused if _is_fused(group) else partial(self._with_torch, group)
            self._runner.piece(side.stream, "update", work)

    def _with_kernel(self, group: Sequence[Parameter], rates: Tensor) -> None:
        module = kernels_for(group[0].weight)
        assert module is not None
        for index, parameter in enumerate(group):
            velocity, gradient = self.velocities[parameter], _gradient(parameter)
            decay = self._decay(parameter)
            weight, operand = parameter.weight, parameter.operand
            module.update(weight, velocity, gradient, operand, rates[index], self._momentum, decay)

    def _with_torch(self, group: Sequence[Parameter]) -> None:
        for (rate, decay), members in self._alike(group).items():
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
        """What has one rate and one weight decay is updated together; what has no rate, not at all."""
        alike: dict[tuple[float, float], list[Parameter]] = {}
        for parameter in group:
            if rate := self._rates[parameter.name]:
                alike.setdefault((rate, self._decay(parameter)), []).append(parameter)
        return alike

    def _decay(self, parameter: Parameter) -> float:
        return self._weight_decay if self._decay_biases or not parameter.name.endswith(".bias") else 0.0


def _is_fused(group: Sequence[Parameter]) -> bool:
    return kernels_for(group[0].weight) is not None


def _gradient(parameter: Parameter) -> Tensor:
    assert parameter.gradient is not None, f"{parameter.name} has no gradient"
    return parameter.gradient
