"""The pieces of a step, recorded as CUDA graphs.

Python and the driver need longer to launch a step's few hundred kernels one by one than a GPU needs to run them. So a
step is cut into pieces, each the work between two waits of one stream, and each piece is recorded once as a CUDA graph
and from then on launched as a whole. Copies between devices, and the events around them, stay outside: PyTorch records
no graph over two devices.

A graph reads and writes the memory it was recorded with. What differs from step to step comes in through `input`, which
copies it to a place that stays; what a piece returns stays where it is too, and is overwritten by the next step.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trainer.streams import Stream, Streams

log = logging.getLogger(__name__)

WARM_UP = 2  # times in a row without a graph first: libraries choose algorithms, kernels are compiled

T = TypeVar("T")


class Pieces:
    """Plays a schedule: a function that calls `piece` and `input` in the same order each time.

    recorded   whether to use graphs; without, or on a CPU, everything is done as it is called
    """

    def __init__(self, streams: Streams, *, recorded: bool) -> None:
        self._streams, self._recorded = streams, recorded
        self._mode: Literal["direct", "record", "replay"] = "direct"
        self._recorded_form: Hashable = None
        self._last_form: Hashable = None
        self._in_a_row = 0
        self._graphs: list[tuple[torch.cuda.CUDAGraph, Any]] = []
        self._inputs: list[Tensor] = []
        self._pools: dict[Stream, Any] = {}
        self._next_graph = self._next_input = 0

    def play(self, form: Hashable, schedule: Callable[[], T]) -> T:
        """Run the schedule; `form` is all that a graph cannot follow: the shapes of inputs, the addresses it was
        recorded with. A form that comes again and again is recorded; a shorter batch at an epoch's end is not.
        """
        if not self._recorded:
            return schedule()
        if form != self._recorded_form or not self._graphs:
            self._in_a_row = self._in_a_row + 1 if form == self._last_form else 1
            self._last_form = form
            if self._in_a_row <= WARM_UP or not self._record(form, schedule):
                return schedule()
        return self._play("replay", schedule)

    def input(self, stream: Stream, x: Tensor) -> Tensor:
        """x where the graphs read it."""
        if self._mode == "direct":
            return x
        if self._mode == "record":
            with self._streams.on(stream):
                self._inputs.append(x.clone())
            return self._inputs[-1]
        place = self._inputs[self._next_input]
        self._next_input += 1
        with self._streams.on(stream):
            return place.copy_(x, non_blocking=True)

    def piece(self, stream: Stream, name: str, work: Callable[[], T]) -> T:
        """What `work` returns, its operations queued on `stream`; in a replay those of the recording."""
        with self._streams.on(stream), torch.profiler.record_function(name):
            if self._mode == "direct" or stream.handle is None:
                return work()
            if self._mode == "record":
                return self._capture(stream, work)
            graph, result = self._graphs[self._next_graph]
            self._next_graph += 1
            graph.replay()
        returned: T = result
        return returned

    def _record(self, form: Hashable, schedule: Callable[[], object]) -> bool:
        """Whether it could be recorded; if not, it will not be tried again."""
        self._graphs, self._inputs = [], []
        try:
            self._play("record", schedule)
        except RuntimeError as error:
            log.warning("going on without CUDA graphs: %s", str(error).partition("\n")[0])
            self._recorded = False
        self._recorded_form = form
        return self._recorded

    def _play(self, mode: Literal["record", "replay"], schedule: Callable[[], T]) -> T:
        self._mode, self._next_graph, self._next_input = mode, 0, 0
        try:
            return schedule()
        finally:
            self._mode = "direct"

    def _capture(self, stream: Stream, work: Callable[[], T]) -> T:
        """Each stream has a pool of memory of its own: pieces of one stream follow each other and may share it."""
        pool = self._pools.setdefault(stream, torch.cuda.graph_pool_handle())
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool)
        try:
            result = work()
        finally:
            graph.capture_end()
        self._graphs.append((graph, result))
        return result
