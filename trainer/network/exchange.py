"""The copies between the halves at one cross-GPU layer: activations forward, their gradients back.

    direct     from device to device
    host       in two hops: the sending stream copies to pinned host memory, the receiving stream from there

Synchronisation of one copy from half s to half t:

    event      recorded on            when                                    awaited by
    ready      compute[s]             the tensor to send is complete          the sending stream
    free       compute[t]             the receive buffer has no more readers  the receiving stream
    arrived    the receiving stream   the copy is done                        compute[t], to read it
    sent       the sending stream     the copy is done                        compute[s], to free the tensor

and between the two hops by way of the host:

    staged     the sending stream     the first hop is done                   the receiving stream
    emptied    the receiving stream   the second hop is done                  the sending stream

Receive buffers and pinned memory are static, and the link keeps the sent tensor until `sent` has been waited for: so no
allocator reuses memory that another stream still reads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.device.streams import DeviceStream, Streams

Way = Literal["direct", "host"]
Ways = tuple[Way, Way]  # of the copies from half 0, and of those from half 1


@dataclass(frozen=True, slots=True)
class Route:
    """The streams and the way of all copies in one direction.

    PyTorch makes both devices' current streams wait for each other around a copy between devices: directions that
    shared streams would take turns.
    """

    out: DeviceStream  # on the source's device
    into: DeviceStream  # on the target's; the same stream for direct copies on one device
    way: Way

    @staticmethod
    def between(
        streams: Streams, source: torch.device, target: torch.device, name: str, way: Way = "direct"
    ) -> "Route":
        out = streams.stream(source, f"{name} out")
        one_stream = way == "direct" and source == target
        return Route(out, out if one_stream else streams.stream(target, f"{name} into"), way)


class Link:
    """The copy of one tensor a step between two compute streams."""

    def __init__(self, streams: Streams, route: Route, source: DeviceStream, target: DeviceStream, name: str) -> None:
        self._streams, self._route = streams, route
        self._source, self._target, self._name = source, target, name
        self._ready, self._sent, self._staged = (
            streams.event(source.device, f"{name} {kind}") for kind in ("ready", "sent", "staged")
        )
        self._arrived, self._free, self._emptied = (
            streams.event(target.device, f"{name} {kind}") for kind in ("arrived", "free", "emptied")
        )
        self._buffer = _ExchangeBuffer(target.device)
        self._pinned = _ExchangeBuffer(torch.device("cpu"), pinned=source.device.type == "cuda")
        self._received: Tensor | None = None
        self._sending: Tensor | None = None

    def send(self, x: Tensor) -> None:
        """Queue the copy of x, the output of the work queued last on compute[source]."""
        streams, route = self._streams, self._route
        streams.record(self._ready, self._source)
        streams.wait(route.out, self._ready)
        streams.wait(route.into, self._free)
        with streams.span(route.into, f"{self._name} copy"):
            self._received = self._copy(x) if route.way == "direct" else self._copy_by_host(x)
        streams.record(self._arrived, route.into)
        streams.record(self._sent, route.out)
        self._sending = x

    def receive(self) -> Tensor:
        """Make compute[target] wait for the copy; return the receive buffer, valid until `release`."""
        assert self._received is not None
        with self._streams.span(self._target, f"{self._name} wait"):
            self._streams.wait(self._target, self._arrived)
        return self._received

    @property
    def address(self) -> int | None:
        return None if self._received is None else self._received.data_ptr()

    def release(self) -> None:
        """Mark the buffer free behind everything queued on compute[target]."""
        self._streams.record(self._free, self._target)

    def settle(self) -> None:
        """Make compute[source] wait for the copy, and free the tensor sent."""
        if self._sending is not None:
            self._streams.wait(self._source, self._sent)
            self._sending = None

    def _copy(self, x: Tensor) -> Tensor:
        with self._streams.on(self._route.out, self._route.into):
            return self._buffer.room_for(x).copy_(x, non_blocking=True)

    def _copy_by_host(self, x: Tensor) -> Tensor:
        streams, out, into = self._streams, self._route.out, self._route.into
        streams.wait(out, self._emptied)
        with streams.on(out):
            staged = self._pinned.room_for(x).copy_(x, non_blocking=True)
        streams.record(self._staged, out)
        streams.wait(into, self._staged)
        with streams.on(into):
            received = self._buffer.room_for(staged).copy_(staged, non_blocking=True)
        streams.record(self._emptied, into)
        return received


class _ExchangeBuffer:
    def __init__(self, device: torch.device, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._memory: Tensor | None = None

    def room_for(self, x: Tensor) -> Tensor:
        """Static memory of x's length and layout, so that a copy is one run of bytes.

        Call it on the stream that writes it, behind its last reader: the allocator ties memory to that stream.
        """
        memory = self._memory
        if memory is None or len(memory) < len(x) or _layout(memory) != _layout(x):
            memory = torch.empty_like(x, device=self._device, pin_memory=self._pinned)
            self._memory = memory
        return memory[: len(x)]


def _layout(x: Tensor) -> tuple[torch.dtype, torch.Size, tuple[int, ...]]:
    return x.dtype, x.shape[1:], x.stride()[1:]


@dataclass(frozen=True, slots=True)
class Exchange:
    """The links of one layer that reads both halves, by receiving half."""

    activation: dict[int, Link]
    gradient: dict[int, Link]

    @property
    def links(self) -> list[Link]:
        return [*self.activation.values(), *self.gradient.values()]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Conversion of what crosses from dtype `computed` to `crossing` and back.

    A mean loss has gradients too small for float16: they cross as those of the sum.
    """

    computed: torch.dtype
    crossing: torch.dtype

    @staticmethod
    def of(exchange: str, computed: torch.dtype) -> "Crossing":
        return Crossing(computed, torch.float16 if exchange == "float16" else computed)

    def send(self, activation: Tensor) -> Tensor:
        return activation.to(self.crossing)

    def receive(self, activation: Tensor) -> Tensor:
        return activation.to(self.computed)

    def send_gradient(self, gradient: Tensor, whole: int) -> Tensor:
        return gradient if self._is_same else (gradient * whole).to(self.crossing)

    def receive_gradient(self, gradient: Tensor, whole: int) -> Tensor:
        return gradient if self._is_same else gradient.to(self.computed) / whole

    @property
    def _is_same(self) -> bool:
        return self.computed == self.crossing
