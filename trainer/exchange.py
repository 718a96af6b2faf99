"""The copies between the halves at one cross-GPU layer.

Forward, each half's output is copied to the other half; backward, the gradient of that copy is copied to where the
output came from.

Who may touch what, and when, for one copy from half s to half t:

    ready      recorded on compute[s] when the tensor to send is complete; the sending stream waits for it
    free       recorded on compute[t] after the last reader of the receive buffer; the receiving stream waits for it
    arrived    recorded on the receiving stream after the copy; compute[t] waits for it before it reads
    sent       recorded on the sending stream after the copy; compute[s] waits for it before the tensor may be freed

Receive buffers are static: they are kept from step to step, and grow when a larger batch comes. The sent tensor is kept
by the link until `sent` has been waited for. So no memory changes hands behind an allocator's back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.streams import Stream, Streams


@dataclass(frozen=True, slots=True)
class Route:
    """The streams of every copy in one direction between the devices: one on each, or the same one on one device.

    PyTorch queues a copy between devices on the source's current stream and makes both devices' current streams wait
    for each other, so a direction has streams of its own: if they were shared, the two directions would take turns.
    """

    out: Stream  # on the source's device
    into: Stream  # on the target's

    @staticmethod
    def between(streams: Streams, source: torch.device, target: torch.device, name: str) -> "Route":
        out = streams.stream(source, f"{name} out")
        return Route(out, out if source == target else streams.stream(target, f"{name} into"))


class Link:
    """One tensor a step, from one half's compute stream to the other's."""

    def __init__(self, streams: Streams, route: Route, source: Stream, target: Stream, name: str) -> None:
        self._streams, self._route = streams, route
        self._source, self._target = source, target
        self._ready = streams.event(source.device, f"{name} ready")
        self._sent = streams.event(source.device, f"{name} sent")
        self._arrived = streams.event(target.device, f"{name} arrived")
        self._free = streams.event(target.device, f"{name} free")
        self._buffer: Tensor | None = None
        self._sending: Tensor | None = None
        self._count = 0

    def send(self, x: Tensor) -> None:
        """Queue the copy of x, n x ..., that compute[source] has just been given to compute."""
        streams, route = self._streams, self._route
        streams.record(self._ready, self._source)
        streams.wait(route.out, self._ready)
        streams.wait(route.into, self._free)
        with streams.on(route.out, route.into):
            self._received(x).copy_(x, non_blocking=True)
        streams.record(self._arrived, route.into)
        streams.record(self._sent, route.out)
        self._sending = x

    def receive(self) -> Tensor:
        """The receive buffer, once compute[target] has waited for the copy; good until `release`."""
        assert self._buffer is not None
        self._streams.wait(self._target, self._arrived)
        return self._buffer[: self._count]

    @property
    def address(self) -> int | None:
        """Where the receive buffer lies; another when it has grown."""
        return None if self._buffer is None else self._buffer.data_ptr()

    def release(self) -> None:
        """compute[target] has been given its last reader of the buffer."""
        self._streams.record(self._free, self._target)

    def settle(self) -> None:
        """Let go of the tensor sent, once compute[source] has waited for the copy."""
        if self._sending is not None:
            self._streams.wait(self._source, self._sent)
            self._sending = None

    def _received(self, x: Tensor) -> Tensor:
        """Room for x in the receive buffer, in x's layout, so that a copy is one run of bytes."""
        buffer = self._buffer
        fits = buffer is not None and len(buffer) >= len(x) and _form(buffer) == _form(x)
        if not fits:
            # Of the receiving stream's memory, on which the old buffer's last reader has been waited for.
            self._buffer = torch.empty_like(x, device=self._route.into.device)
        self._count = len(x)
        assert self._buffer is not None
        return self._buffer[: self._count]


def _form(x: Tensor) -> tuple[torch.dtype, torch.Size, tuple[int, ...]]:
    """What one entry of a batch is: tensors of one form differ in nothing but their length."""
    return x.dtype, x.shape[1:], x.stride()[1:]


@dataclass(frozen=True, slots=True)
class Exchange:
    """The links of one layer that reads both halves.

    activation   by half: brings it the other half's output
    gradient     by half: brings it the gradient of what it sent
    """

    activation: dict[int, Link]
    gradient: dict[int, Link]

    @property
    def links(self) -> list[Link]:
        return [*self.activation.values(), *self.gradient.values()]
