"""Brings batches to the devices, while these compute, and gives the loader its memory back.

Nothing waits for a GPU inside a step, so the host is here, fetching batch k + 1 and queueing its copy, while the GPU
computes step k.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.client.batch import Batch
from common.wire.slab import KEPT
from trainer.device.streams import Streams
from trainer.feeding.lent import Lent
from trainer.feeding.pinned import Pinned, tensor_over
from trainer.feeding.upload import Upload
from trainer.network.net import Net

Reading = Callable[[Tensor], Tensor]  # of images on a device, which will be overwritten, into new memory there


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A batch on the devices.

    batch    where it comes from; its images are good until the next batch is asked for
    read     what was read from its images, on each device
    labels   int64 n, on the loss device
    """

    batch: Batch
    read: Mapping[torch.device, Tensor]
    labels: Tensor


class Carrier:
    """Carries the batches of streams to the devices of nets; one for a run, whose streams take turns with its buffers.

    nets     have their loss on the same device
    pinned   knows the slabs that the devices can read
    """

    def __init__(self, *nets: Net, streams: Streams, pinned: Pinned) -> None:
        devices = dict.fromkeys(device for net in nets for device in net.input_devices)
        self._uploads = {device: Upload(device, streams) for device in devices}
        self._loss_device = nets[0].loss_device
        self._streams, self._pinned = streams, pinned

    @property
    def devices(self) -> Iterable[torch.device]:
        """Where pixels are wanted, each named once."""
        return self._uploads.keys()

    def carried(self, source: Iterable[Batch], reading: Mapping[torch.device, Reading]) -> Iterator[Carried]:
        """Each batch of `source`, read on each device; it has its memory back once the devices have copied it."""
        lent = Lent(self._streams)
        try:
            for batch in source:
                yield self._carried(batch, reading, lent)
                lent.give_back(but=KEPT)
        finally:
            lent.give_back()

    def pictures(self, source: Iterable[Batch]) -> Iterator[Carried]:
        """The same with the images as they are, in memory of the devices' own."""
        return self.carried(source, dict.fromkeys(self.devices, torch.clone))

    def _carried(self, batch: Batch, reading: Mapping[torch.device, Reading], lent: Lent) -> Carried:
        images_nhwc, labels = self._on_host(batch)
        uploaded = {device: upload(images_nhwc, reading[device]) for device, upload in self._uploads.items()}
        lent.keep(batch, [copied for _, copied in uploaded.values()])
        read = {device: pixels for device, (pixels, _) in uploaded.items()}
        return Carried(batch, read, labels.to(self._loss_device, copy=True, non_blocking=True))

    def _on_host(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels where the devices can read them."""
        if not self._streams.queues(self._loss_device):
            return tensor_over(batch.images), tensor_over(batch.labels)
        return self._pinned.images(batch, self._loss_device), self._pinned.labels(batch)
