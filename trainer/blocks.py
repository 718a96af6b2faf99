"""Weights as placed, and back: every net's blocks are rectangles of the reference's 16 tensors.

Checkpoints and initial weights are in the reference's names and shapes, so any placement can read any other's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import CheckpointError


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A rectangle of the reference's tensor `name`: slices of its rows (outputs) and then its columns (inputs).

    Left out, they are all of them.
    """

    name: str
    index: tuple[slice, ...] = ()

    def of(self, reference: Tensor) -> Tensor:
        """The block as a view of the reference's tensor."""
        return reference[self.index]


Placed = list[tuple[Block, nn.Parameter]]


class Placement:
    """The weights' side of a `Net`, the same wherever the blocks lie."""

    def __init__(self, placed: Placed, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`placed` covers the reference's tensors, which are of `shapes`, each element once."""
        self._placed, self._shapes = placed, shapes

    def parameters_by_name(self) -> list[tuple[str, nn.Parameter]]:
        return [(block.name, parameter) for block, parameter in self._placed]

    @torch.no_grad()
    def gather(self, tensors: Mapping[nn.Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        joined: dict[str, Tensor] = {}
        for block, parameter in self._placed:
            part = parameter if tensors is None else tensors[parameter]
            if block.name not in joined:
                joined[block.name] = torch.empty(self._shapes[block.name], dtype=part.dtype)
            block.of(joined[block.name]).copy_(part)
        return joined

    @torch.no_grad()
    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[nn.Parameter, Tensor] | None = None) -> None:
        _check(self._shapes, tensors)
        for block, parameter in self._placed:
            target = parameter if into is None else into[parameter]
            target.copy_(block.of(tensors[block.name]))


def _check(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(f"it lacks {name}: it is not of this network")
        if tuple(tensors[name].shape) != shape:
            theirs = _by(tensors[name].shape)
            raise CheckpointError(
                f"its {name} is {theirs}, this network's {_by(shape)}: the width or the number of classes differs"
            )
    unknown = sorted(tensors.keys() - shapes.keys())
    if unknown:
        raise CheckpointError(f"it has {unknown[0]}, which this network has not")


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
