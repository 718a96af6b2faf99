"""Batches from the host to the devices, as the network wants them.

On the device: uint8 to float, minus the mean image's centre, times the recipe's scale, zeros at the right and bottom
up to what conv1 reads. A stored picture (view "full") is cut to its centre there too. Pixels stay in the order they
came in (height, width, channel), which torch calls channels_last.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.client.batch import Batch
from common.client.waits import WaitClock
from common.digest import Digests
from common.wire.slab import Replaced
from trainer.device.streams import Streams
from trainer.feeding.carrier import Carrier
from trainer.feeding.pinned import Pinned
from trainer.feeding.shrink import shrunk
from trainer.network.net import Net, Pixels
from trainer.ops.convolution import depth_to_space
from trainer.ops.fused import kernels
from trainer.recipes.layers import InputShape

AT_ONCE = 8  # pictures that are made from bytes to what is read while they are in a processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class FedBatch:
    """A batch on the devices: pixels on each of the net's input devices, int64 labels on its loss device.

    replaced, digests   as in Batch, on the host
    """

    epoch: int
    first: int
    x_nchw: Pixels
    labels: Tensor
    replaced: tuple[Replaced, ...] = ()
    digests: Digests | None = None

    def __len__(self) -> int:
        return len(self.labels)


class PixelTransform:
    """On one device: n x height x width x 3 stored pixels to n x 48 x 57 x 57 as AlexNet reads them, folded by the
    first layer's stride.

    mean_hwc   256 x 256 x 3, the mean image; its centre of the crop's size is what is subtracted, wherever the crop lay
    shape      of what the network reads; larger pictures are cut to their centre
    scale      factor on (pixel - mean)
    dtype      of the result
    """

    def __init__(
        self,
        mean_hwc: npt.NDArray[np.float32],
        shape: InputShape,
        scale: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._crop, self._side, self._fold, self._shrink = shape
        self._mean_rows = self._cut(torch.from_numpy(mean_hwc.copy())[None])[0].contiguous().to(device)
        self._scale, self._dtype = scale, dtype

    def __call__(self, images_nhwc: Tensor) -> Tensor:
        """A new tensor in channels_last order; `images_nhwc` may be overwritten afterwards.

        A row of pixels is treated as one run of 3 x width numbers, which is three times as fast as channel by channel.
        """
        n, device, folded = len(images_nhwc), images_nhwc.device, self._side // self._fold
        x_nhwc = torch.empty(n, folded, folded, 3 * self._fold**2, dtype=self._dtype, device=device)
        module = kernels(x_nhwc)
        if module is not None and self._shrink == 1:
            module.pixels(images_nhwc.contiguous(), self._mean_rows, x_nhwc, self._scale)
            return x_nhwc.permute(0, 3, 1, 2)
        for first in range(0, n, AT_ONCE):
            self._fill(x_nhwc[first : first + AT_ONCE], images_nhwc[first : first + AT_ONCE])
        return x_nhwc.permute(0, 3, 1, 2)

    def _fill(self, x_nhwc: Tensor, images_nhwc: Tensor) -> None:
        n, folded, fold = len(x_nhwc), x_nhwc.shape[1], self._fold
        plain_nhwc = torch.zeros(n, self._side, self._side, 3, device=x_nhwc.device)
        height, length = self._mean_rows.shape
        rows = plain_nhwc.flatten(2)[:, :height, :length]
        rows.copy_(self._cut(images_nhwc)).sub_(self._mean_rows).mul_(self._scale)
        squares = plain_nhwc.view(n, folded, fold, folded, 3 * fold).permute(0, 1, 3, 2, 4)  # as space_to_depth does
        x_nhwc.view(n, folded, folded, fold, 3 * fold).copy_(squares)

    def pictures(self, x_nchw: Tensor) -> npt.NDArray[np.uint8]:
        """The inverse, as far as the network sees the pictures: n x height x width x 3 pixels, the mean added back."""
        height, length = self._mean_rows.shape
        rows = depth_to_space(x_nchw.float(), self._fold).permute(0, 2, 3, 1).flatten(2)[:, :height, :length]
        pixels = (rows / self._scale + self._mean_rows).round().clamp(0, 255).to(torch.uint8)
        return pixels.reshape(len(pixels), height, -1, 3).cpu().numpy()

    def _cut(self, images_nhwc: Tensor) -> Tensor:
        """What the network sees of the pictures, row by row: n x height x (3 width)."""
        rows = _centre_rows(images_nhwc, self._crop)
        return rows if self._shrink == 1 else shrunk(rows, self._shrink)


def _centre_rows(images_nhwc: Tensor, size: int) -> Tensor:
    """The centre, n x size x (3 size), as a view; offsets are (256 - 224) / 2 = 16 and, rounded down, 14 for 227."""
    top, left = (images_nhwc.shape[1] - size) // 2, (images_nhwc.shape[2] - size) // 2
    return images_nhwc.flatten(2)[:, top : top + size, 3 * left : 3 * (left + size)]


class Feed:
    """Puts the batches of streams on a net's devices; one for a run, whose streams take turns with its buffers.

    mean_hwc, shape  as PixelTransform takes them
    clock            adds up the time spent waiting for a stream
    pinned           knows the slabs that the devices can read
    """

    def __init__(
        self,
        net: Net,
        mean_hwc: npt.NDArray[np.float32],
        *,
        shape: InputShape,
        clock: WaitClock,
        streams: Streams,
        pinned: Pinned,
    ) -> None:
        self._carrier = Carrier(net, streams=streams, pinned=pinned)
        self._input_devices, self._clock = net.input_devices, clock
        self._transform_to = partial(PixelTransform, mean_hwc, shape, dtype=net.input_dtype)

    def batches(self, source: Iterable[Batch], scale: float) -> Iterator[FedBatch]:
        """Each batch of `source`, its pixels times `scale`; it has its memory back once the devices have copied it."""
        transforms = {device: self._transform_to(scale, device) for device in self._carrier.devices}
        for carried in self._carrier.carried(self._clock.timed(source), transforms):
            batch, x_nchw = carried.batch, tuple(carried.read[device] for device in self._input_devices)
            yield FedBatch(batch.epoch, batch.first, x_nchw, carried.labels, batch.replaced, batch.digests)
