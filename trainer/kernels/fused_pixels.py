"""Bytes to conv1's input (`trainer/feeding/pixel_transform.py`)."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _pixels(
    image_ptr, mean_ptr, out_ptr, scale, top, left, height: tl.constexpr, width: tl.constexpr, crop: tl.constexpr,
    side: tl.constexpr, fold: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row of one image: 3 x side numbers, 3 x crop of them from the image.

    Each run of 3 x fold stays together, and `fold` such rows are a pixel's channels.
    """
    image, row = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, block)
    inside = (at < 3 * crop) & (row < crop)
    source = ((image * height + top + row) * width + left) * 3 + at
    x = tl.load(image_ptr + source, inside, 0).to(tl.float32) - tl.load(mean_ptr + row * 3 * crop + at, inside, 0.0)
    out = (image * side + row // fold * fold) * 3 * side
    out += (at // (3 * fold) * fold + row % fold) * (3 * fold) + at % (3 * fold)
    tl.store(out_ptr + out, tl.where(inside, x * scale, 0.0).to(out_ptr.dtype.element_ty), at < 3 * side)


def pixels(images_nhwc: Tensor, mean_rows: Tensor, out_nhwc: Tensor, scale: float) -> None:
    """Fill `out_nhwc`, n x side/fold x side/fold x (3 fold fold), with scale * (centre crop - mean), zero-padded.

    images_nhwc   uint8 or float32
    mean_rows     float32 crop x (3 crop)
    """
    n, height, width, _ = images_nhwc.shape
    fold = math.isqrt(out_nhwc.shape[3] // 3)
    crop, side = len(mean_rows), fold * out_nhwc.shape[1]
    with torch.cuda.device_of(out_nhwc):  # Triton launches on the current GPU, which need not be where the tensors lie
        _pixels[(n, side)](
            images_nhwc, mean_rows, out_nhwc, scale, (height - crop) // 2, (width - crop) // 2,
            height, width, crop, side, fold, triton.next_power_of_2(3 * side), num_warps=4,
        )  # fmt: skip
