"""The pieces of a step, recorded as CUDA graphs.

Python and the driver need longer to launch a step's few hundred kernels one by one than a GPU needs to run them. So a
step is cut into pieces, each the work between two waits of one stream, and each piece is recorded once as a CUDA graph
and from then on launched as a whole. Copies between devices, and the events around them, stay outside: PyTorch records
no graph over two devices.

A graph reads and writes the memory it was recorded with. So a step's inputs are copied to a place that stays; what a
piece returns stays where it is too, and is overwritten by the next step.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor

from trainer.device.streams import Graph, Recorder, Side, Stream, Streams

log = logging.getLogger(__name__)

WARM_UP = 2  # times in a row without a graph first: libraries choose algorithms, kernels are compiled

T = TypeVar("T")


class Pieces:
    """Plays a schedule: a function that calls `piece` in the same order each time, on the streams of `sides`.

    recorded   whether to use graphs; without, or on a CPU, everything is done as it is called
    """

    def __init__(self, streams: Streams, sides: Sequence[Side], *, recorded: bool) -> None:
        self._streams, self._sides = streams, sides
        self._recorders = self._new_recorders() if recorded else {}
        self._recorded = recorded and len(self._recorders) == len(sides)
        self._mode: Literal["direct", "record", "replay"] = "direct"
        self._recorded_form: Hashable = None
        self._last_form: Hashable = None
        self._in_a_row = self._next = 0
        self._graphs: list[tuple[Graph, Any]] = []
        self._inputs: list[Tensor] = []

    def play(
        self, schedule: Callable[[Sequence[Tensor]], T], inputs: Sequence[Tensor] = (), fixed: Hashable = None
    ) -> T:
        """What the schedule returns, given the inputs, or what lies at fixed places and equals them.

        It behaves as if queued on the current streams of its devices. What comes again and again in one form is
        recorded; a shorter batch at an epoch's end is not.

        fixed   what else a recording keeps, where it might change: addresses of what is read and written, numbers
        """
        same = tuple(next(index for index, other in enumerate(inputs) if other is x) for x in inputs)
        form = tuple((x.shape, x.stride()) for x in inputs), same, fixed
        if self._recorded and self._is_recorded(form, schedule, inputs):
            for place, x in dict(zip(self._inputs, inputs, strict=True)).items():
                place.copy_(x, non_blocking=True)
            return self._play("replay", schedule, self._inputs)
        return self._play("direct", schedule, inputs)

    def _is_recorded(
        self, form: Hashable, schedule: Callable[[Sequence[Tensor]], object], inputs: Sequence[Tensor]
    ) -> bool:
        """Whether there are graphs of this form, be it only now."""
        if form != self._recorded_form:
            self._in_a_row = self._in_a_row + 1 if form == self._last_form else 1
            self._last_form = form
            if self._in_a_row <= WARM_UP:
                return False
            self._record(schedule, inputs)
            self._recorded_form = form
        return self._recorded

    def _record(self, schedule: Callable[[Sequence[Tensor]], object], inputs: Sequence[Tensor]) -> None:
        """If it cannot be done, it will not be tried again.

        The recorders are new ones: PyTorch takes no graph into a pool whose last graph is gone.
        """
        self._graphs, self._recorders = [], self._new_recorders()
        copies = {x: x.clone() for x in inputs}  # halves on one device are given the same tensor
        self._inputs = [copies[x] for x in inputs]
        try:
            self._play("record", schedule, self._inputs)
        except RuntimeError as error:
            log.warning("going on without CUDA graphs: %s", str(error).partition("\n")[0])
            self._recorded = False

    def _new_recorders(self) -> dict[Stream, Recorder]:
        """The recorders by stream, of those that can be recorded."""
        recorders = {side.stream: self._streams.recorder(side.stream) for side in self._sides}
        return {stream: recorder for stream, recorder in recorders.items() if recorder is not None}

    def piece(self, stream: Stream, name: str, work: Callable[[], T]) -> T:
        """What `work` returns, its operations queued on `stream`; in a replay those of the recording."""
        with self._streams.on(stream), self._streams.span(stream, name):
            if self._mode == "direct":
                return work()
            if self._mode == "record":
                graph, result = self._recorders[stream].record(work)
                self._graphs.append((graph, result))
            else:
                graph, result = self._graphs[self._next]
                self._next += 1
                graph.replay()
        returned: T = result
        return returned

    def _play(
        self,
        mode: Literal["direct", "record", "replay"],
        schedule: Callable[[Sequence[Tensor]], T],
        inputs: Sequence[Tensor],
    ) -> T:
        self._mode, self._next = mode, 0
        for side in self._sides:
            side.begin()
        try:
            return schedule(inputs)
        finally:
            self._mode = "direct"
            for side in self._sides:
                side.end()
