"""A step of all ranks: each computes its parts of the batch, and all get the gradients of the whole."""

import itertools

import torch
from torch import Tensor

from trainer.device.streams import Streams
from trainer.network.net import Net, Pixels
from trainer.ranks.averaging import Averaging
from trainer.ranks.buckets import Division, Reduce
from trainer.ranks.world import World


class GlobalStep:
    """Steps of `net`, in `parts` equal but for rounding; one of many ranks computes `parts` / ranks of them.

    Image i of n lies in part p if n p // parts <= i < n (p + 1) // parts.

    parts    a power of two that `world.ranks`, another, divides
    reduce   "ordered": the bits depend on `parts`, not on ranks; "fast": in the library's order
    """

    def __init__(
        self,
        net: Net,
        world: World | None = None,
        *,
        parts: int = 1,
        reduce: Reduce = "ordered",
        streams: Streams | None = None,
    ) -> None:
        self._net, self._world, self._parts = net, world or World.alone(), parts
        self._streams = streams or Streams()
        division = Division(self._world.ranks, parts, reduce)
        self._parts_of_a_rank = division.parts_of_a_rank
        self._averaging = Averaging(net, self._world, division, self._streams) if parts > 1 else None

    def __call__(self, inputs: Pixels, labels: Tensor, *, step: int, whole: int) -> Tensor:
        """Make each parameter's gradient that of the mean loss of `whole` images, of which these are this rank's.

        Returns a row for each of this rank's parts: the losses' sum and the wrong top-1 answers, over `whole`; float32
        or float64, on `net.loss_device`. Raises RankLost.
        """
        if self._averaging is None:
            return self._net.train_step(inputs, labels, step=step).view(1, 2)
        rows = [self._part(inputs, labels, step, whole, start, end) for start, end in self._spans(whole)]
        self._averaging.finish()
        with self._streams.on(self._streams.current(self._net.loss_device)):
            return torch.stack(rows)

    def predict(self, inputs: Pixels, whole: int) -> Tensor:
        """`Net.predict` of this rank's images of `whole`, by the same parts: the same bits on any ranks."""
        if self._averaging is None:
            return self._net.predict(inputs)
        spans = self._spans(whole)
        first = spans[0][0]
        with self._streams.on(self._streams.current(self._net.loss_device)):
            found = [
                self._net.predict(_cut(inputs, start - first, end - first)).clone()
                for start, end in spans
                if start < end
            ]
            return torch.cat([self._no_probabilities(), *found])

    def _part(self, inputs: Pixels, labels: Tensor, step: int, whole: int, start: int, end: int) -> Tensor:
        assert self._averaging is not None
        if start == end:
            return self._empty_part()
        first = self._spans(whole)[0][0]
        told = self._net.train_step(
            _cut(inputs, start - first, end - first),
            labels[start - first : end - first],
            step=step,
            first=start,
            whole=whole,
            keep=self._averaging.begin,
        )
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

    def _no_probabilities(self) -> Tensor:
        *_, bias = (parameter for parameter in self._net.buckets[0] if parameter.name.endswith(".bias"))
        return torch.empty(0, bias.operand.numel(), device=self._net.loss_device)

    def _spans(self, whole: int) -> list[tuple[int, int]]:
        """Start and end of each of this rank's parts among the whole's images."""
        first = self._world.rank * self._parts_of_a_rank
        cuts = [whole * part // self._parts for part in range(first, first + self._parts_of_a_rank + 1)]
        return list(itertools.pairwise(cuts))


def _cut(inputs: Pixels, start: int, end: int) -> Pixels:
    """The images from `start` on; halves that are given one tensor still are."""
    cut = {id(x): x[start:end] for x in inputs}
    return tuple(cut[id(x)] for x in inputs)
