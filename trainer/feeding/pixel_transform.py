"""From stored pixels to the network's input, on a device."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.kernels import kernels_for
from trainer.network.net import Net
from trainer.ops.convolution import depth_to_space
from trainer.recipes.layers import InputShape

AT_ONCE = 8  # images transformed together on a CPU, so that they stay in its cache


class PixelTransform:
    """Stored pixels, n x height x width x 3, to the folded input, n x 48 x 57 x 57 for AlexNet.

    mean_hwc   256 x 256 x 3; its centre is subtracted, wherever the crop lay
    shape      of the input; larger images are cut to their centre
    scale      factor on (pixel - mean)
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
        """A new tensor in channels_last order; `images_nhwc` may be overwritten afterwards."""
        n, device, folded = len(images_nhwc), images_nhwc.device, self._side // self._fold
        x_nhwc = torch.empty(n, folded, folded, 3 * self._fold**2, dtype=self._dtype, device=device)
        module = kernels_for(x_nhwc)
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

    def images(self, x_nchw: Tensor) -> npt.NDArray[np.uint8]:
        """The inverse, n x height x width x 3."""
        height, length = self._mean_rows.shape
        rows = depth_to_space(x_nchw.float(), self._fold).permute(0, 2, 3, 1).flatten(2)[:, :height, :length]
        pixels = (rows / self._scale + self._mean_rows).round().clamp(0, 255).to(torch.uint8)
        return pixels.reshape(len(pixels), height, -1, 3).cpu().numpy()

    def _cut(self, images_nhwc: Tensor) -> Tensor:
        """The part that the network sees, as rows, n x height x (3 width): three times as fast."""
        rows = _centre_rows(images_nhwc, self._crop)
        return rows if self._shrink == 1 else _shrunk(rows, self._shrink)


def pixel_transforms(
    net: Net, mean_hwc: npt.NDArray[np.float32], shape: InputShape, scale: float
) -> dict[torch.device, PixelTransform]:
    devices = dict.fromkeys(net.input_devices)
    return {device: PixelTransform(mean_hwc, shape, scale, device, net.input_dtype) for device in devices}


def _centre_rows(images_nhwc: Tensor, size: int) -> Tensor:
    top, left = (images_nhwc.shape[1] - size) // 2, (images_nhwc.shape[2] - size) // 2
    return images_nhwc.flatten(2)[:, top : top + size, 3 * left : 3 * (left + size)]


def _shrunk(rows: Tensor, side: int) -> Tensor:
    n, height, length = rows.shape
    bands = rows.reshape(n, height // side, side, length)
    # Adding bytes row to row as int16 first takes a third of the time of converting them to float32 first.
    sum_type = torch.int16 if rows.dtype == torch.uint8 else torch.float32
    column_sums = torch.zeros(n, height // side, length, dtype=sum_type, device=rows.device)
    for row in bands.unbind(dim=2):
        column_sums += row
    squares = column_sums.float().view(n, height // side, length // (3 * side), side, 3)
    return squares.sum(dim=3).div_(side**2).flatten(2)
