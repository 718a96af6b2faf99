"""Copies of a run's tensors at one moment, written while training changes the originals.

    current stream   ... update k;  records `updated`      forward, backward      waits for `copied`;  update k + 1
    copy stream      waits for `updated`;  copies to pinned host memory;  records `copied`
    writer thread    waits for `copied`;  reads the copies

All share one memory: take none while the last is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.checkpoints.files import PIECE_BYTES, Piece, StoredTensor
from trainer.device.streams import DeviceStream, Event, Streams
from trainer.network.parameters import Block, Parameter


class NotFinite(Exception):
    """Raised with the tensor's name."""


@dataclass(frozen=True, slots=True, eq=False)
class _Device:
    copy: DeviceStream
    updated: Event
    copied: Event
    pairs: list[tuple[Tensor, Tensor]]  # original, copy


class Snapshot:
    """Copies of the parameters' weights and velocities.

    shapes    the reference's, by name
    copies    by "weights" and "velocities"
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        velocities: Mapping[Parameter, Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        streams: Streams,
    ) -> None:
        self._streams, self._shapes = streams, shapes
        originals = {
            "weights": {parameter: parameter.weight for parameter in parameters},
            "velocities": {parameter: velocities[parameter] for parameter in parameters},
        }
        flat = [tensor for of_kind in originals.values() for tensor in of_kind.values()]
        copies = dict(zip(flat, _host_copies(flat), strict=True))
        self.copies = {
            kind: {parameter: copies[tensor] for parameter, tensor in of_kind.items()}
            for kind, of_kind in originals.items()
        }
        by_device: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for original, copy in copies.items():
            by_device.setdefault(original.device, []).append((original, copy))
        self._devices = [_device(device, pairs, streams) for device, pairs in by_device.items()]
        self._holds_updates = False

    @torch.no_grad()
    def take(self) -> None:
        """Copy what the work queued so far leaves; `hold_update` must precede the next update."""
        for each in self._devices:
            self._streams.record(each.updated, self._streams.current(each.copy.device))
            self._streams.wait(each.copy, each.updated)
            with self._streams.on(each.copy):
                for original, copy in each.pairs:
                    copy.copy_(original, non_blocking=True)
            self._streams.record(each.copied, each.copy)
        self._holds_updates = True

    def hold_update(self) -> None:
        if self._holds_updates:
            for each in self._devices:
                self._streams.wait(self._streams.current(each.copy.device), each.copied)
            self._holds_updates = False

    def wait(self) -> None:
        for each in self._devices:
            self._streams.synchronize(each.copied)

    def stored(self) -> dict[str, StoredTensor]:
        """The reference's tensors, whose pieces raise NotFinite."""
        return {
            f"{kind}/{name}": StoredTensor(torch.float32, shape, partial(self._pieces, kind, name))
            for kind in self.copies
            for name, shape in self._shapes.items()
        }

    def _pieces(self, kind: str, name: str) -> Iterator[Piece]:
        shape = self._shapes[name]
        blocks = [(each.block, copy.numpy()) for each, copy in self.copies[kind].items() if each.name == name]
        rows_at_once = max(1, PIECE_BYTES // (4 * int(np.prod(shape[1:]))))
        for first in range(0, shape[0], rows_at_once):
            rows = range(first, min(first + rows_at_once, shape[0]))
            piece = _joined(blocks, rows, shape)
            if not (np.isfinite(piece.min()) and np.isfinite(piece.max())):
                raise NotFinite(name)
            yield piece.reshape(-1).view(np.uint8)


def _joined(
    blocks: Sequence[tuple[Block, npt.NDArray[np.float32]]], rows: range, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    # By numpy alone: torch would use every core.
    if len(blocks) == 1:
        return np.ascontiguousarray(blocks[0][1][rows.start : rows.stop])
    joined = np.empty((len(rows), *shape[1:]), np.float32)
    for block, copy in blocks:
        begin, end, _ = block.index[0].indices(shape[0])
        low, high = max(begin, rows.start), min(end, rows.stop)
        if low < high:
            joined[low - rows.start : high - rows.start, *block.index[1:]] = copy[low - begin : high - begin]
    return joined


def _device(device: torch.device, pairs: list[tuple[Tensor, Tensor]], streams: Streams) -> _Device:
    updated, copied = (streams.event(device, name) for name in ("updated", "copied"))
    return _Device(streams.stream(device, "snapshot"), updated, copied, pairs)


def _host_copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    # In one block, since CUDA pins memory in powers of two.
    on_gpu = any(tensor.is_cuda for tensor in tensors)
    memory = torch.empty(sum(tensor.nbytes for tensor in tensors), dtype=torch.uint8, pin_memory=on_gpu)
    parts = torch.split(memory, [tensor.nbytes for tensor in tensors])
    return [
        part.view(tensor.dtype).as_strided(tensor.size(), tensor.stride())
        for part, tensor in zip(parts, tensors, strict=True)
    ]
