"""Streams and events: the only file that knows whether a device has any.

A CPU has none: its work is done when the call returns. Its `Stream` and `Event` are names without a handle, on which
recording and waiting do nothing, so that one schedule serves every device. A test derives from `Streams` to watch a
schedule on a CPU and tell which of its accesses no wait has put in order.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A queue of work on `device`; `handle` is None on a CPU."""

    device: torch.device
    name: str
    handle: torch.cuda.Stream | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A point in a stream of `device`, once recorded; waiting for one never recorded does not wait."""

    device: torch.device
    name: str
    handle: torch.cuda.Event | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A point in a stream whose time is kept: by the device's clock, or on a CPU by the host's."""

    queued_s: float  # when the host queued it, which on a CPU is when it was reached
    handle: torch.cuda.Event | None = None


class Graph(Protocol):
    """Work recorded once, which is queued again as a whole: the same operations on the same memory."""

    def replay(self) -> None:
        """Queue it on the current stream."""


class Recorder:
    """Records graphs of work on one stream of a GPU. They follow each other, so they share a pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], T]) -> tuple[Graph, T]:
        """Record what `work` queues on the current stream, without doing it, and give what it returns.

        Raises RuntimeError where it cannot be recorded, as when the host waits for a number.
        """
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        try:
            result = work()
        finally:
            graph.capture_end()
        return graph, result


class Streams:
    """Makes streams and events, and puts them to use. On the host only `synchronize` and `seconds_between` wait."""

    def queues(self, device: torch.device) -> bool:
        """Whether work for `device` is only queued when the call that asks for it returns."""
        return device.type == "cuda"

    def stream(self, device: torch.device, name: str) -> Stream:
        """A new stream, never the default one."""
        return Stream(device, name, _cuda_stream(device) if device.type == "cuda" else None)

    def event(self, device: torch.device, name: str) -> Event:
        """A new event, to be recorded on streams of `device`."""
        return Event(device, name, _cuda_event() if device.type == "cuda" else None)

    def current(self, device: torch.device) -> Stream:
        """The stream on which the caller's own work for `device` is queued."""
        return Stream(device, "current", torch.cuda.current_stream(device) if device.type == "cuda" else None)

    def recorder(self, stream: Stream) -> Recorder | None:
        """What records the stream's work; None on a CPU."""
        return None if stream.handle is None else Recorder()

    def record(self, event: Event, stream: Stream) -> None:
        """The event is reached when all that is queued on `stream` so far is done."""
        if event.handle is not None:
            event.handle.record(stream.handle)

    def wait(self, stream: Stream, event: Event) -> None:
        """What is queued on `stream` from now on begins after `event`."""
        if stream.handle is not None and event.handle is not None:
            stream.handle.wait_event(event.handle)

    def mark(self, stream: Stream) -> Mark:
        """Keep the time at which all that is queued on `stream` so far is done."""
        mark = Mark(time.perf_counter(), _cuda_event(timing=True) if stream.handle is not None else None)
        if mark.handle is not None:
            mark.handle.record(stream.handle)
        return mark

    def seconds_between(self, start: Mark, end: Mark) -> float:
        """Seconds from one mark to another of the same device; the host waits until `end` is reached."""
        if start.handle is None or end.handle is None:
            return end.queued_s - start.queued_s
        end.handle.synchronize()
        return float(start.handle.elapsed_time(end.handle)) / 1000

    def delay(self, stream: Stream, cycles: int) -> None:
        """Keep a GPU's stream busy for so many cycles of its clock; does nothing on a CPU, where nothing runs late."""
        if stream.handle is not None:
            with torch.cuda.stream(stream.handle):
                torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    def passed(self, event: Event) -> bool:
        """Whether the event is reached, or was never recorded."""
        return event.handle is None or bool(event.handle.query())  # type: ignore[no-untyped-call]

    def synchronize(self, event: Event) -> None:
        """Hold up the host until the event is reached."""
        if event.handle is not None:
            event.handle.synchronize()

    def span(self, stream: Stream, name: str) -> contextlib.AbstractContextManager[object]:
        """Around work for `stream`; a profile's own kind of Streams notes how long it takes."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def on(self, *streams: Stream) -> Iterator[None]:
        """Queue on each of these streams whatever its device is given; of two on one device, on the last."""
        with contextlib.ExitStack() as entered:
            for stream in streams:
                if stream.handle is not None:
                    entered.enter_context(torch.cuda.stream(stream.handle))
            yield


class Side:
    """A stream beside the current one of its device, which behaves as if its work were queued there."""

    def __init__(self, streams: Streams, device: torch.device, name: str) -> None:
        self.stream = streams.stream(device, f"compute {name}")
        self._streams = streams
        self._begin, self._end = (streams.event(device, f"{when} {name}") for when in ("begin", "end"))

    def begin(self) -> None:
        """What is queued on the stream from now on begins after what the caller has queued."""
        self._streams.record(self._begin, self._streams.current(self.stream.device))
        self._streams.wait(self.stream, self._begin)

    def end(self) -> None:
        """What the caller queues from now on begins after what is queued on the stream."""
        self._streams.record(self._end, self.stream)
        self._streams.wait(self._streams.current(self.stream.device), self._end)


def _cuda_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _cuda_event(timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
