"""Between host and device without waiting for either: pixels going up, a few numbers coming down.

On a GPU, batch k + 1 is copied up on a stream of its own while step k computes. It lands in one of two buffers:

    copy stream      waits until buffer k % 2 is free;  copies;  records `arrived`
    current stream   waits for `arrived`;  reads the buffer;  records `free`
    host             keeps the memory it comes from as it is until `arrived` (`trainer/feeding/feed.py`)

On a CPU nothing moves: the batch is read where it lies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.device.streams import Event, Stream, Streams

BUFFERS = 2


@dataclass(slots=True)
class _Buffer:
    memory: Tensor  # bytes
    arrived: Event
    free: Event


class Upload:
    """Takes batches to one device. Several streams may take turns: the buffers are as large as the largest batch."""

    def __init__(self, device: torch.device, streams: Streams) -> None:
        self._device, self._streams = device, streams
        self._copy: Stream = streams.stream(device, "upload")
        self._buffers: list[_Buffer] = []

    def __call__(self, host: Tensor, read: Callable[[Tensor], Tensor]) -> tuple[Tensor, Event]:
        """What `read` makes of the batch on the device, and the event after which `host` is not read any more.

        `host` is pinned where the device is a GPU. `read` is queued on the device's current stream and must give new
        memory: the batch is overwritten later.
        """
        streams, current = self._streams, self._streams.current(self._device)
        if not streams.queues(self._device):
            return read(host), streams.event(self._device, "read")
        buffer = self._next_buffer(host.nbytes)
        batch = buffer.memory[: host.nbytes].view(host.dtype).view(host.shape)
        with streams.on(self._copy):
            batch.copy_(host, non_blocking=True)
        streams.record(buffer.arrived, self._copy)
        streams.wait(current, buffer.arrived)
        result = read(batch)
        streams.record(buffer.free, current)
        return result, buffer.arrived

    def _next_buffer(self, size: int) -> _Buffer:
        """The one used longest ago, free for the copy stream; a new one for the first batches."""
        if len(self._buffers) < BUFFERS:
            arrived, free = (self._streams.event(self._device, name) for name in ("arrived", "free"))
            buffer = _Buffer(self._memory(size), arrived, free)
        else:
            buffer = self._buffers.pop(0)
            self._streams.wait(self._copy, buffer.free)  # also where its memory goes back to the stream's pool
            if len(buffer.memory) < size:
                buffer.memory = self._memory(size)
        self._buffers.append(buffer)
        return buffer

    def _memory(self, size: int) -> Tensor:
        """So many bytes from the copy stream's own pool, so nothing another stream still reads."""
        with self._streams.on(self._copy):
            return torch.empty(size, dtype=torch.uint8, device=self._device)


class LateNumbers:
    """A small tensor coming to the host behind the work that makes it; reading it waits for that and nothing later.

    On a CPU it is the tensor itself, which must not be overwritten before it is read.
    """

    def __init__(self, numbers: Tensor, streams: Streams) -> None:
        device = numbers.device
        self._streams = streams
        self._arrived = streams.event(device, "numbers")
        self._host = numbers
        if device.type != "cpu":
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            streams.record(self._arrived, streams.current(device))

    def read(self) -> Tensor:
        """The tensor, on the CPU."""
        self._streams.synchronize(self._arrived)
        return self._host
