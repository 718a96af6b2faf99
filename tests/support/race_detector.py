"""Race detector for streams, on a CPU: finds accesses that no wait has put in order.

On a CPU everything happens in program order, so a missing wait changes no number. Here every stream has a vector clock,
an event hands one on, and every operation of torch is an access of the current stream to the memory it reads and
writes. Two accesses to one memory, of which one writes and neither is known to the other's clock, are a race; so is
memory freed for its stream to use again while another may still read it.

The host is a stream too: it knows of others' work what it has waited for or seen to be over, and what is queued knows
all that the host did before. A collective is an access of the stream that it is queued on.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.device.streams import DeviceStream, Event, Streams


@dataclass
class _Memory:
    owner: DeviceStream  # whose allocator gets it back
    alive: StorageWeakRef
    write: tuple[DeviceStream, int] | None = None
    reads: dict[DeviceStream, int] = field(default_factory=dict)


class RaceDetector(Streams):
    """Streams that only keep the clocks.

    leave_out   kind of event whose waits are forgotten
    is_over     tells if an event that the host asks for has passed
    """

    def __init__(self, leave_out: str = "", is_over: Callable[[], bool] = lambda: False) -> None:
        self.host = self.stream(torch.device("cpu"), "host")
        self.races: list[str] = []
        self.waits_left_out = 0
        self._leave_out, self._is_over = leave_out, is_over
        self._clocks: dict[DeviceStream, Counter[DeviceStream]] = {}
        self._events: dict[Event, Counter[DeviceStream]] = {}
        self._current: dict[str, DeviceStream] = {}
        self._active: list[tuple[DeviceStream, ...]] = []
        self._memories: dict[int, _Memory] = {}

    def queues(self, device: torch.device) -> bool:
        return True

    def current(self, device: torch.device) -> DeviceStream:
        return self._current.setdefault(str(device), self.stream(device, f"current of {device}"))

    def record(self, event: Event, stream: DeviceStream) -> None:
        self._events[event] = Counter(self._clock(stream))

    def wait(self, stream: DeviceStream, event: Event) -> None:
        self._note_freed()
        if self._leave_out and event.name.endswith(self._leave_out):
            self.waits_left_out += 1
        else:
            self._clocks[stream] = self._clock(stream) | self._events.get(event, Counter())

    def passed(self, event: Event) -> bool:
        over = event not in self._events or self._is_over()
        if over:
            self.synchronize(event)
        return over

    def synchronize(self, event: Event) -> None:
        self.wait(self.host, event)

    @contextlib.contextmanager
    def on(self, *streams: DeviceStream) -> Iterator[None]:
        self._active.append(streams)
        try:
            yield
        finally:
            self._active.pop()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with _Watch(self):
            yield

    def access(self, name: str, reads: list[Tensor], writes: list[Tensor]) -> None:
        """An operation on the current stream; one between two streams waits for both, and both wait for it."""
        if not self._active:
            return
        self._note_freed()
        streams = self._active[-1]
        stream, joined = streams[0], Counter(self._clock(self.host))
        for each in streams:
            joined |= self._clock(each)
        joined[stream] += 1
        for each in streams:
            self._clocks[each] = Counter(joined)
        for tensor in reads:
            self._read(name, stream, self._memory(tensor, stream))
        for tensor in writes:
            self._write(name, stream, self._memory(tensor, stream))

    def _read(self, name: str, stream: DeviceStream, memory: _Memory) -> None:
        self._must_know(f"{name} reads", stream, [memory.write] if memory.write else [])
        memory.reads[stream] = self._clock(stream)[stream]

    def _write(self, name: str, stream: DeviceStream, memory: _Memory) -> None:
        self._must_know(f"{name} writes", stream, [*memory.reads.items(), *([memory.write] if memory.write else [])])
        memory.write, memory.reads = (stream, self._clock(stream)[stream]), {}

    def _must_know(self, what: str, stream: DeviceStream, accesses: list[tuple[DeviceStream, int]]) -> None:
        for other, tick in accesses:
            if self._clock(stream)[other] < tick:
                self.races.append(f"{stream.name}: {what} what {other.name} may still be at")

    def _note_freed(self) -> None:
        for key, memory in list(self._memories.items()):
            if memory.alive.expired():  # type: ignore[no-untyped-call]
                accesses = [*memory.reads.items(), *([memory.write] if memory.write else [])]
                self._must_know("frees", memory.owner, accesses)
                del self._memories[key]

    def _memory(self, tensor: Tensor, stream: DeviceStream) -> _Memory:
        storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        # By address: two tensors made from one array are one memory. What has no bytes has no address.
        key = tensor.untyped_storage().data_ptr() or storage.cdata
        return self._memories.setdefault(key, _Memory(stream, storage))

    def _clock(self, stream: DeviceStream) -> Counter[DeviceStream]:
        return self._clocks.setdefault(stream, Counter())


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, detector: RaceDetector) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._detector = detector

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs))
        outputs = _tensors(result)
        written = _written(func, args, kwargs or {})
        mine = {tensor.untyped_storage()._cdata for tensor in inputs}
        fresh = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in mine]
        if written or fresh:  # else it makes a view, and touches no memory
            self._detector.access(str(func), inputs, [*written, *fresh])
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    if func.namespace == "c10d":  # a collective, whose schema says nothing of what it writes
        return _tensors(args[0])
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    return [
        tensor
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in _tensors(given.get(argument.name))
    ]
