"""A step of all ranks: each computes its parts, and all get the gradients of the whole."""

import torch
from torch import Tensor

from trainer.device.streams import Streams
from trainer.network.net import Net, Pixels
from trainer.ranks.averaging import Averaging
from trainer.ranks.share import Division
from trainer.ranks.world import World


class GlobalStep:
    """Steps of `net`, divided among the ranks of `world`."""

    def __init__(self, net: Net, world: World, division: Division, streams: Streams | None = None) -> None:
        self._net, self._rank, self._division = net, world.rank, division
        self._streams = streams or Streams()
        self._copied: Tensor | None = None  # kept until the stream that gets its memory back has waited for the copy
        self._averaging = Averaging(net, world, division, self._streams) if division.parts > 1 else None

    def __call__(self, inputs: Pixels, labels: Tensor, *, step: int, whole: int) -> Tensor:
        """Make each parameter's gradient that of the mean loss of `whole` images, of which these are this rank's.

        Returns a row for each of this rank's parts: the losses' sum and the wrong top-1 answers, over `whole`; float32
        or float64, on `net.loss_device`. Raises RankLost.
        """
        if self._averaging is None:
            return self._net.train_step(inputs, labels, step=step).view(1, 2)
        spans = self._division.spans(self._rank, whole)
        own = spans[0][0]
        rows = [
            self._part(_cut(inputs, start - own, end - own), labels[start - own : end - own], step, start, whole)
            for start, end in spans
        ]
        self._averaging.finish()
        with self._streams.on(self._streams.current(self._net.loss_device)):
            return torch.stack(rows)

    def _part(self, inputs: Pixels, labels: Tensor, step: int, first: int, whole: int) -> Tensor:
        assert self._averaging is not None
        if not len(labels):
            return self._empty_part()
        told = self._net.train_step(inputs, labels, step=step, first=first, whole=whole, keep=self._averaging.begin)
        return self._copy(told)

    def _copy(self, told: Tensor) -> Tensor:
        self._copied = told
        with self._streams.on(self._streams.current(self._net.loss_device)):
            return told.clone()

    def _empty_part(self) -> Tensor:
        """Take part in each exchange, with zeros."""
        assert self._averaging is not None
        for parameters in self._net.buckets:
            stream = self._streams.current(parameters[0].operand.device)
            with self._streams.on(stream):
                zeros = {parameter: torch.zeros_like(parameter.operand) for parameter in parameters}
            self._averaging.begin(zeros, stream)
        dtype = torch.promote_types(self._net.input_dtype, torch.float32)
        with self._streams.on(self._streams.current(self._net.loss_device)):
            return torch.zeros(2, dtype=dtype, device=self._net.loss_device)


def _cut(inputs: Pixels, start: int, end: int) -> Pixels:
    """The images from `start` on; halves that are given one tensor still are."""
    cut = {id(x): x[start:end] for x in inputs}
    return tuple(cut[id(x)] for x in inputs)
