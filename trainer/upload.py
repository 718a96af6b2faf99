"""Between host and device without waiting for either: pixels going up, a few numbers coming down.

On a GPU, batch k + 1 is copied up on a stream of its own while step k computes. It lands in one of two buffers:

    copy stream      waits until buffer k % 2 is free;  copies;  records `arrived`
    current stream   waits for `arrived`;  reads the buffer;  records `free`

On a CPU nothing moves: the batch is read where it lies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.streams import Event, Stream, Streams

BUFFERS = 2


@dataclass(slots=True)
class _Buffer:
    memory: Tensor
    arrived: Event
    free: Event


class Upload:
    """Takes batches of one stream to one device."""

    def __init__(self, device: torch.device, streams: Streams) -> None:
        self._device, self._streams = device, streams
        self._copy: Stream = streams.stream(device, "upload")
        self._buffers: list[_Buffer] = []

    def __call__(self, host: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """What `read` makes of the batch on the device. `host` is pinned where the device is a GPU.

        `read` is queued on the device's current stream and must give new memory: the batch is overwritten later.
        """
        if self._device.type == "cpu":
            return read(host)
        streams, current = self._streams, self._streams.current(self._device)
        buffer = self._next_buffer(host)
        batch = buffer.memory[: len(host)]
        streams.wait(self._copy, buffer.free)
        with streams.on(self._copy):
            batch.copy_(host, non_blocking=True)
        streams.record(buffer.arrived, self._copy)
        streams.wait(current, buffer.arrived)
        result = read(batch)
        streams.record(buffer.free, current)
        return result

    def _next_buffer(self, host: Tensor) -> _Buffer:
        """The one used longest ago; a new one for the first batches, or where this one is too small."""
        buffer = self._buffers.pop(0) if len(self._buffers) == BUFFERS else self._new_buffer(host)
        if len(buffer.memory) < len(host):
            buffer = self._new_buffer(host)
        self._buffers.append(buffer)
        return buffer

    def _new_buffer(self, host: Tensor) -> _Buffer:
        """Its memory comes from the copy stream's own pool, so nothing another stream still reads."""
        with self._streams.on(self._copy):
            memory = torch.empty(host.shape, dtype=host.dtype, device=self._device)
        arrived, free = (self._streams.event(self._device, name) for name in ("arrived", "free"))
        return _Buffer(memory, arrived, free)


class LateNumbers:
    """A small tensor coming to the host behind the work that makes it; reading it waits for that and nothing later."""

    def __init__(self, numbers: Tensor, streams: Streams) -> None:
        device = numbers.device
        self._arrived = streams.event(device, "numbers")
        self._host = numbers
        if device.type != "cpu":
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            streams.record(self._arrived, streams.current(device))

    def read(self) -> list[float]:
        if self._arrived.handle is not None:
            self._arrived.handle.synchronize()
        return [float(number) for number in self._host]
