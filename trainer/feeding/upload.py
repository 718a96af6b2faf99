"""Asynchronous copies between host and device: batches up, a few numbers down.

On a GPU, batch k + 1 is copied on a stream of its own while step k computes, into one of two buffers:

    copy stream      waits until buffer k % 2 is free;  copies;  records `arrived`
    current stream   waits for `arrived`;  reads the buffer;  records `free`
    host             leaves the source memory alone until `arrived`
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.device.streams import DeviceStream, Event, Streams

BUFFERS = 2


@dataclass(slots=True)
class _UploadBuffer:
    memory: Tensor  # bytes
    arrived: Event
    free: Event


class Upload:
    def __init__(self, device: torch.device, streams: Streams) -> None:
        self._device, self._streams = device, streams
        self._copy: DeviceStream = streams.stream(device, "upload")
        self._buffers: list[_UploadBuffer] = []

    def __call__(self, host: Tensor, read: Callable[[Tensor], Tensor]) -> tuple[Tensor, Event]:
        """The result of `read` on the device's copy of `host`, and the event after which `host` may be overwritten.

        host   pinned, if the device is a GPU
        read   queued on the current stream; returns new memory
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

    def _next_buffer(self, size: int) -> _UploadBuffer:
        if len(self._buffers) < BUFFERS:
            arrived, free = (self._streams.event(self._device, name) for name in ("arrived", "free"))
            buffer = _UploadBuffer(self._memory(size), arrived, free)
        else:
            buffer = self._buffers.pop(0)
            self._streams.wait(self._copy, buffer.free)  # and before its memory may go back to the pool
            if len(buffer.memory) < size:
                buffer.memory = self._memory(size)
        self._buffers.append(buffer)
        return buffer

    def _memory(self, size: int) -> Tensor:
        """Memory from the copy stream's pool, which no other stream still reads."""
        with self._streams.on(self._copy):
            return torch.empty(size, dtype=torch.uint8, device=self._device)


class AsyncResult:
    """Asynchronous device-to-host copy of a small tensor; `read` blocks only on the work that produces it.

    On a CPU the tensor itself, not to be overwritten before.
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
        self._streams.synchronize(self._arrived)
        return self._host
