"""CUDA graphs on a CPU: a tape of torch's operations, replayed on the memory they were recorded with.

As on a GPU, recording runs nothing: existing memory is left alone, new memory holds no numbers before the replay, and
what needs a number on the host cannot be recorded. A pool of memory whose last graph is gone takes no other, as
PyTorch's allocator asserts. Triton's kernels are not seen.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.device.streams import DeviceStream, Graph, Recorder, Streams

T = TypeVar("T")


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations with their arguments and the memory of their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._entries: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted while a graph is recorded")
        kwargs = kwargs or {}
        written = _written(func, args, kwargs)
        result = func(*args, **kwargs) if not written else written[0] if len(func._schema.returns) == 1 else None
        if not written and not _is_view(func):
            for tensor in _tensors(result):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
        self._entries.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self._entries:
            if _is_view(func):
                continue
            found = func(*args, **kwargs)
            if not _written(func, args, kwargs):
                for memory, tensor in zip(_tensors(result), _tensors(found), strict=True):
                    memory.copy_(tensor)


class TapeRecorder(Recorder):
    def __init__(self, note: Callable[[Tape], None]) -> None:
        self._note = note
        self._tapes: list[weakref.ref[Tape]] = []

    def record(self, work: Callable[[], T]) -> tuple[Graph, T]:
        if self._tapes and not any(tape() for tape in self._tapes):
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED: the pool's last graph is gone")
        with Tape() as tape:
            result = work()
        self._tapes.append(weakref.ref(tape))
        self._note(tape)
        return tape, result


class TapedStreams(Streams):
    """A CPU whose work can be recorded; `recorded` counts the segments, `held` those that still hold memory."""

    def __init__(self) -> None:
        self.recorded = 0
        self._tapes: weakref.WeakSet[Tape] = weakref.WeakSet()

    def recorder(self, stream: DeviceStream) -> Recorder:
        return TapeRecorder(self._note)

    @property
    def held(self) -> int:
        return len(self._tapes)

    def _note(self, tape: Tape) -> None:
        self.recorded += 1
        self._tapes.add(tape)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that the operation writes to."""
    given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
    return [
        given[each.name]
        for each in func._schema.arguments
        if each.alias_info is not None and each.alias_info.is_write and each.name in given
    ]


def _is_view(func: Any) -> bool:
    aliases = [each.alias_info for each in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
