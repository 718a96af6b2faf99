"""Streams and events: the only file that knows whether a device has any.

On a CPU recording and waiting do nothing, so that one schedule serves every device. Tests derive from `Streams` to find
races.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class DeviceStream:
    device: torch.device
    name: str
    handle: torch.cuda.Stream | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A point in a stream; waiting for an unrecorded one does not wait."""

    device: torch.device
    name: str
    handle: torch.cuda.Event | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    queued_s: float  # when the host queued it, which on a CPU is when it was reached
    handle: torch.cuda.Event | None = None


class Graph(Protocol):
    def replay(self) -> None:
        """Queue it on the current stream."""


class Recorder:
    """Records graphs that run in order, so share a memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], T]) -> tuple[Graph, T]:
        """Record what `work` queues, without running it.

        Raises RuntimeError if it cannot be recorded, as when the host waits for a number.
        """
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        try:
            result = work()
        finally:
            graph.capture_end()
        return graph, result


class Streams:
    """Streams, events and their use. Only `synchronize` and `seconds_between` block the host."""

    def queues(self, device: torch.device) -> bool:
        """True if calls return before their work is done."""
        return device.type == "cuda"

    def stream(self, device: torch.device, name: str) -> DeviceStream:
        """A new stream, never the default one."""
        return DeviceStream(device, name, _cuda_stream(device) if device.type == "cuda" else None)

    def event(self, device: torch.device, name: str) -> Event:
        return Event(device, name, _cuda_event() if device.type == "cuda" else None)

    def current(self, device: torch.device) -> DeviceStream:
        return DeviceStream(device, "current", torch.cuda.current_stream(device) if device.type == "cuda" else None)

    def recorder(self, stream: DeviceStream) -> Recorder | None:
        return None if stream.handle is None else Recorder()

    def record(self, event: Event, stream: DeviceStream) -> None:
        if event.handle is not None:
            event.handle.record(stream.handle)

    def wait(self, stream: DeviceStream, event: Event) -> None:
        """Make work queued on `stream` from now on start after `event`."""
        if stream.handle is not None and event.handle is not None:
            stream.handle.wait_event(event.handle)

    def mark(self, stream: DeviceStream) -> Mark:
        mark = Mark(time.perf_counter(), _cuda_event(timing=True) if stream.handle is not None else None)
        if mark.handle is not None:
            mark.handle.record(stream.handle)
        return mark

    def seconds_between(self, start: Mark, end: Mark) -> float:
        """Seconds between marks of one device; blocks."""
        if start.handle is None or end.handle is None:
            return end.queued_s - start.queued_s
        end.handle.synchronize()
        return float(start.handle.elapsed_time(end.handle)) / 1000

    def delay(self, stream: DeviceStream, cycles: int) -> None:
        if stream.handle is not None:
            with torch.cuda.stream(stream.handle):
                torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    def passed(self, event: Event) -> bool:
        """True if the event is reached, or was never recorded."""
        return event.handle is None or bool(event.handle.query())  # type: ignore[no-untyped-call]

    def synchronize(self, event: Event) -> None:
        if event.handle is not None:
            event.handle.synchronize()

    def span(self, stream: DeviceStream, name: str) -> contextlib.AbstractContextManager[object]:
        """A context around work, which a profiling subclass times."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def on(self, *streams: DeviceStream) -> Iterator[None]:
        """Make each stream the current one of its device; of two on one device, the last."""
        with contextlib.ExitStack() as entered:
            for stream in streams:
                if stream.handle is not None:
                    entered.enter_context(torch.cuda.stream(stream.handle))
            yield


class Side:
    """A compute stream whose work, between `begin` and `end`, behaves as if queued on its device's current stream."""

    def __init__(self, streams: Streams, device: torch.device, name: str) -> None:
        self.stream = streams.stream(device, f"compute {name}")
        self._streams = streams
        self._begin, self._end = (streams.event(device, f"{when} {name}") for when in ("begin", "end"))

    def begin(self) -> None:
        self._streams.record(self._begin, self._streams.current(self.stream.device))
        self._streams.wait(self.stream, self._begin)

    def end(self) -> None:
        self._streams.record(self._end, self.stream)
        self._streams.wait(self._streams.current(self.stream.device), self._end)


def _cuda_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _cuda_event(timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
