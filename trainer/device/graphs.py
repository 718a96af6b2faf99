"""CUDA graphs of a step, one per piece: the work of one stream between two waits.

Python launches kernels more slowly than the GPU runs them. Copies between devices stay outside: PyTorch records no
graph over two devices. Inputs are copied in, and the next step overwrites what a piece returned.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor

from trainer.device.streams import DeviceStream, Graph, Recorder, Side, Streams

log = logging.getLogger(__name__)

WARM_UP = 2  # runs in a row without a graph first: libraries choose algorithms, kernels are compiled

T = TypeVar("T")
Procedure = Callable[[Sequence[Tensor]], T]
Mode = Literal["direct", "record", "replay"]


class GraphRunner:
    """Runs a schedule: a function that calls `piece` in the same order each time, on the streams of `sides`.

        def step(inputs):
            scores = runner.piece(stream, "forward", lambda: inputs[0] @ weight)
            streams.record(done, stream)  # between pieces: queued anew in each run
            return runner.piece(stream, "softmax", lambda: scores.softmax(dim=1))

        probabilities = runner.run(step, [x])  # the first runs call both lambdas, later ones replay their graphs

    recorded   use graphs; ignored on a CPU
    """

    def __init__(self, streams: Streams, sides: Sequence[Side], *, recorded: bool) -> None:
        self._streams, self._sides = streams, sides
        self._recorders = self._new_recorders() if recorded else {}
        self._recorded = recorded and len(self._recorders) == len(sides)
        self._mode: Mode = "direct"
        self._recorded_signature: Hashable = None
        self._last_signature: Hashable = None
        self._repeats = self._next = 0
        self._graphs: list[tuple[Graph, Any]] = []
        self._inputs: list[Tensor] = []

    def run(self, schedule: Procedure[T], inputs: Sequence[Tensor] = (), constants: Hashable = None) -> T:
        """The schedule's result, as if queued on the current streams of its devices.

        constants   what a recording fixes besides the inputs, such as addresses
        """
        aliases = tuple(next(index for index, other in enumerate(inputs) if other is x) for x in inputs)
        signature = tuple((x.shape, x.stride()) for x in inputs), aliases, constants
        if self._recorded and self._is_recorded(signature, schedule, inputs):
            for static, x in dict(zip(self._inputs, inputs, strict=True)).items():
                static.copy_(x, non_blocking=True)
            return self._run("replay", schedule, self._inputs)
        return self._run("direct", schedule, inputs)

    def _is_recorded(self, signature: Hashable, schedule: Procedure[object], inputs: Sequence[Tensor]) -> bool:
        if signature != self._recorded_signature:
            self._repeats = self._repeats + 1 if signature == self._last_signature else 1
            self._last_signature = signature
            if self._repeats <= WARM_UP:
                return False
            self._record(schedule, inputs)
            self._recorded_signature = signature
        return self._recorded

    def _record(self, schedule: Procedure[object], inputs: Sequence[Tensor]) -> None:
        """Record with new recorders: PyTorch takes no graph into a pool whose last graph is gone."""
        self._graphs, self._recorders = [], self._new_recorders()
        copies = {x: x.clone() for x in inputs}  # halves on one device are given the same tensor
        self._inputs = [copies[x] for x in inputs]
        try:
            self._run("record", schedule, self._inputs)
        except RuntimeError as error:
            log.warning("continuing without CUDA graphs: %s", str(error).partition("\n")[0])
            self._recorded = False
            self._graphs, self._inputs, self._recorders = [], [], {}  # which hold a part of a step's memory

    def _new_recorders(self) -> dict[DeviceStream, Recorder]:
        recorders = {side.stream: self._streams.recorder(side.stream) for side in self._sides}
        return {stream: recorder for stream, recorder in recorders.items() if recorder is not None}

    def between(self, work: Callable[[], object]) -> None:
        """Do `work` between pieces, unless they are being recorded: their results are then still to be computed."""
        if self._mode != "record":
            work()

    def piece(self, stream: DeviceStream, name: str, work: Callable[[], T]) -> T:
        """The result of `work` on `stream`; in a replay that of the recording."""
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

    def _run(self, mode: Mode, schedule: Procedure[T], inputs: Sequence[Tensor]) -> T:
        self._mode, self._next = mode, 0
        for side in self._sides:
            side.begin()
        try:
            return schedule(inputs)
        finally:
            self._mode = "direct"
            for side in self._sides:
                side.end()
