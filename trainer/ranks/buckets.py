"""Gradients that are computed together and travel together."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.network.parameters import Gradients, Parameter
from trainer.ranks.collectives import Collectives
from trainer.ranks.share import Division
from trainer.ranks.sums import TreeSum, dtype_of_sums, tree

ALONE = 1 << 20  # elements from which a gradient is sent from where it is; smaller ones are copied together


class Wire:
    """A stretch of memory that travels: gradients of one part as they are, of several as their sum in float32."""

    def __init__(self, parameters: Sequence[Parameter], division: Division) -> None:
        operand = parameters[0].operand
        count = sum(parameter.operand.numel() for parameter in parameters)
        length = -(-count // division.ranks) * division.ranks
        self._parameters, self._division = parameters, division
        self._sum = TreeSum() if division.parts_of_a_rank > 1 else None
        self._payload = torch.empty(0)
        self._copies = None
        if len(parameters) > 1 or length > count:
            self._copies = operand.new_zeros(length)
        sent = dtype_of_sums(operand.dtype) if self._sum else operand.dtype
        is_exchanged = division.ranks > 1 and division.reduce == "ordered"
        self._received = operand.new_empty(length if is_exchanged else 0, dtype=sent)
        self._whole = operand.new_empty(length) if is_exchanged or sent != operand.dtype else None

    def load(self, gradients: Gradients) -> None:
        if self._copies is None:
            (parameter,) = self._parameters
            self._payload = _flat(gradients[parameter], parameter.operand)
        else:
            self._payload = self._copies
            for parameter, copy in zip(self._parameters, self._views(self._copies), strict=True):
                copy.copy_(gradients[parameter])

    def add(self) -> None:
        """Add what is loaded to the sum over this rank's parts."""
        assert self._sum is not None
        self._payload = self._sum.add(self._payload)

    def send(self, collectives: Collectives) -> dist.Work:
        if self._division.reduce == "fast":
            return collectives.add(self._payload)
        return collectives.exchange(self._received, self._payload)

    def receive(self, work: dist.Work, collectives: Collectives) -> None:
        work.wait()
        if self._division.reduce == "fast":
            self.end_sum()
        else:
            assert self._whole is not None
            mine = tree(self._received.view(self._division.ranks, -1)).to(self._whole.dtype)
            collectives.gather(self._whole, mine)

    def end_sum(self) -> None:
        """Round the sum, once it is that of all ranks."""
        if self._whole is not None:
            self._whole.copy_(self._payload)

    def assign(self) -> None:
        whole = self._payload if self._whole is None else self._whole
        for parameter, gradient in zip(self._parameters, self._views(whole), strict=True):
            parameter.gradient = gradient
        if self._sum is not None:
            self._sum.restart()

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's stretch, laid out as its operand."""
        views, start = [], flat.storage_offset()
        for parameter in self._parameters:
            operand = parameter.operand
            views.append(flat.as_strided(operand.shape, operand.stride(), start))
            start += operand.numel()
        return views


class Bucket:
    """The gradients of parameters of one device, part by part."""

    def __init__(self, parameters: Sequence[Parameter], division: Division) -> None:
        large = [parameter for parameter in parameters if parameter.operand.numel() >= ALONE]
        small = [parameter for parameter in parameters if parameter not in large]
        self.wires = [Wire(group, division) for group in (small, *([each] for each in large)) if group]
        self.device = parameters[0].operand.device
        self._parameters, self._parts = parameters, division.parts_of_a_rank
        self._gradients: dict[Parameter, Tensor] = {}
        self._loaded = 0

    def take(self, gradients: Gradients) -> bool:
        """Keep gradients of a part; true once all of that part are here."""
        self._gradients |= gradients
        return len(self._gradients) == len(self._parameters)

    def add(self) -> bool:
        """Add the part that is here to this rank's sum; true if it was the last."""
        for wire in self.wires:
            wire.load(self._gradients)
            wire.add()
        self._gradients = {}
        self._loaded += 1
        return self._loaded == self._parts

    def send(self, collectives: Collectives) -> list[dist.Work]:
        """Begin to exchange the sums or, of a single part, the gradients."""
        if self._parts == 1:
            for wire in self.wires:
                wire.load(self._gradients)
        return [wire.send(collectives) for wire in self.wires]

    def receive(self, works: Sequence[dist.Work], collectives: Collectives) -> None:
        for wire, work in zip(self.wires, works, strict=True):
            wire.receive(work, collectives)

    def assign(self) -> None:
        for wire in self.wires:
            wire.assign()
        self._gradients, self._loaded = {}, 0


def _flat(gradient: Tensor, operand: Tensor) -> Tensor:
    if gradient.stride() != operand.stride():
        gradient = torch.empty_like(operand).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,))
