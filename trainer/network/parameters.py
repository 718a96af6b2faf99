"""Weights as placed: every net's blocks are rectangles of the reference's tensors.

So any placement can read any other's checkpoint.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import CheckpointError
from trainer.device.streams import DeviceStream


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Slices of the reference's tensor `name`: of its rows (outputs), then its columns (inputs)."""

    name: str
    index: tuple[slice, ...] = ()

    def of(self, reference: Tensor) -> Tensor:
        return reference[self.index]


class Parameter:
    """A block on its device.

    weight     float32 (float64 in a float64 net)
    operand    read by the layers: the weight or, in bfloat16, a copy; whoever changes the weight syncs it
    gradient   of the last loss by the operand, in its dtype
    """

    def __init__(self, block: Block, reference: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        nhwc = device.type == "cuda" and reference.ndim == 4  # as cuDNN's tensor cores want filters too
        layout = torch.channels_last if nhwc else torch.contiguous_format
        self.block = block
        self.weight = block.of(reference).to(device, weight_dtype, copy=True).contiguous(memory_format=layout)
        self.operand = self.weight if dtype == weight_dtype else self.weight.to(dtype)
        self.operand.requires_grad_()
        self.gradient: Tensor | None = None

    @property
    def name(self) -> str:
        return self.block.name

    @torch.no_grad()
    def sync_operand(self) -> None:
        if self.operand is not self.weight:
            self.operand.copy_(self.weight)


Gradients = Mapping[Parameter, Tensor]
Keeper = Callable[[Gradients, DeviceStream], None]


def assign_gradients(gradients: Gradients, stream: DeviceStream) -> None:
    """Set each parameter's `gradient`, computed on `stream`. Call it between pieces: a replay runs no Python."""
    for parameter, gradient in gradients.items():
        parameter.gradient = gradient


class Placement:
    def __init__(self, parameters: Sequence[Parameter], reference: Mapping[str, Tensor]) -> None:
        """`parameters` cover each element of the reference's tensors once."""
        self.parameters = parameters
        self._shapes = {name: tuple(tensor.shape) for name, tensor in reference.items()}

    @torch.no_grad()
    def gather(self, tensors: Mapping[Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        joined: dict[str, Tensor] = {}
        for parameter in self.parameters:
            part = parameter.weight if tensors is None else tensors[parameter]
            if parameter.name not in joined:
                joined[parameter.name] = torch.empty(self._shapes[parameter.name], dtype=part.dtype)
            parameter.block.of(joined[parameter.name]).copy_(part)
        return joined

    @torch.no_grad()
    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[Parameter, Tensor] | None = None) -> None:
        _check(self._shapes, tensors)
        for parameter in self.parameters:
            target = parameter.weight if into is None else into[parameter]
            target.copy_(parameter.block.of(tensors[parameter.name]))
            if into is None:
                parameter.sync_operand()


def _check(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(f"it lacks {name}: it is not of this network")
        if tuple(tensors[name].shape) != shape:
            theirs = _times(tensors[name].shape)
            raise CheckpointError(
                f"its {name} is {theirs}, this network's {_times(shape)}: the width or the number of classes differs"
            )
    unknown = sorted(tensors.keys() - shapes.keys())
    if unknown:
        raise CheckpointError(f"it has {unknown[0]}, which this network has not")


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
