"""Host-to-device prefetch: copies batch k + 1 while the devices compute step k, then gives its slot back.

The loader refills a slot as soon as it has it back, so each batch is leased until the events of its copies have passed:

    host   queues the copies of batch k, one to each device, and step k behind them
    host   gives back the slots whose copies are complete; waits for the others but the newest KEPT
    host   requests batch k + 1, which also tells the loader which slots are free
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.client.batch import Batch
from common.wire.slab import KEPT
from trainer.device.streams import Event, Streams
from trainer.feeding.pinned import Pinned, tensor_over
from trainer.feeding.pixel_transform import PixelTransform
from trainer.feeding.upload import Upload
from trainer.network.net import Net, Pixels


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A batch on the devices.

    batch    on the host; its images are good until the next batch is requested, all else for ever
    pixels   by device, as a PixelTransform leaves them; n x height x width x 3 without one
    labels   int64 n, on the loss device
    """

    batch: Batch
    pixels: Mapping[torch.device, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, net: Net, part: slice | None = None) -> Pixels:
        """Inputs of `net`; those of one part, if given."""
        pixels = self.pixels if part is None else {device: each[part] for device, each in self.pixels.items()}
        return tuple(pixels[device] for device in net.input_devices)


class Feed:
    """Copies batches to the devices of nets that share a loss device; one per run, whose streams share its buffers."""

    def __init__(self, *nets: Net, streams: Streams, pinned: Pinned) -> None:
        devices = dict.fromkeys(device for net in nets for device in net.input_devices)
        self._uploads = {device: Upload(device, streams) for device in devices}
        self._loss_device = nets[0].loss_device
        self._streams, self._pinned = streams, pinned

    def batches(
        self, source: Iterable[Batch], transforms: Mapping[torch.device, PixelTransform] | None = None
    ) -> Iterator[DeviceBatch]:
        leases = _Leases(self._streams)
        try:
            for batch in source:
                yield self._on_devices(batch, transforms, leases)
                leases.release(but=KEPT)
        finally:
            leases.release()

    def _on_devices(
        self, batch: Batch, transforms: Mapping[torch.device, PixelTransform] | None, leases: "_Leases"
    ) -> DeviceBatch:
        images_nhwc, labels = self._on_host(batch)
        pixels: dict[torch.device, Tensor] = {}
        copies: list[Event] = []
        for device, upload in self._uploads.items():
            pixels[device], copied = upload(images_nhwc, torch.clone if transforms is None else transforms[device])
            copies.append(copied)
        leases.hold(batch, copies)
        return DeviceBatch(batch, pixels, labels.to(self._loss_device, copy=True, non_blocking=True))

    def _on_host(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if not self._streams.queues(self._loss_device):
            return tensor_over(batch.images), tensor_over(batch.labels)
        return self._pinned.images(batch, self._loss_device), self._pinned.labels(batch)


class _Leases:
    """The batches whose slots the devices may still be reading, oldest first."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._held: deque[tuple[Batch, Sequence[Event]]] = deque()

    def hold(self, batch: Batch, copies: Sequence[Event]) -> None:
        batch.keep()
        self._held.append((batch, copies))

    def release(self, but: int = 0) -> None:
        """Release what is copied; block until at most `but` are left."""
        while self._held and (len(self._held) > but or self._is_copied(self._held[0][1])):
            batch, copies = self._held[0]
            for copy in copies:
                self._streams.synchronize(copy)
            self._held.popleft()
            batch.release()

    def _is_copied(self, copies: Sequence[Event]) -> bool:
        return all(self._streams.passed(copy) for copy in copies)
