"""Crop, flip and colour noise: from a record's JPEG to its place in a slot.

The picture is decoded into a scratch of 256x256 that stays in the processor's cache. A flip decodes the channels in
reverse (BGR) and then reverses every row byte by byte, eight at a time: the mirror image, in RGB. The crop is copied
into the slot once, and the colour offset is added there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE, StreamSpec
from loader import jpeg
from loader.sampler import Draws, Floats

Pixels = npt.NDArray[Any]  # uint8 or float32


class Augmenter:
    """Turns records of one stream into pictures, one after the other."""

    def __init__(self, spec: StreamSpec) -> None:
        self._crop = spec.image_shape[0]
        self._noisy = spec.view == "train" and spec.sigma > 0
        self._decoded = np.empty((STORED_SIZE, STORED_SIZE, 3), np.uint8)
        self._mirrored = np.empty_like(self._decoded)

    def full(self, jpeg_bytes: bytes, target: Pixels) -> None:
        """Decode into `target` (256x256x3) as it is stored."""
        if target.dtype == np.uint8:
            jpeg.decode(jpeg_bytes, target)
        else:
            target[...] = jpeg.decode(jpeg_bytes, self._decoded)

    def train(self, jpeg_bytes: bytes, draws: Draws, index: int, target: Pixels) -> None:
        """Decode, crop, flip and colour into `target` (crop x crop x 3) as draw number `index` says.

        uint8: the offset is rounded half to even, the sum saturates at 0 and 255. float32: the sum as it is.
        """
        flip = bool(draws.flip[index])
        picture = jpeg.decode(jpeg_bytes, self._decoded, bgr=flip)
        left = int(draws.left[index])
        if flip:
            self._mirror()
            picture, left = self._mirrored, STORED_SIZE - self._crop - left
        top = int(draws.top[index])
        crop = picture[top : top + self._crop, left : left + self._crop]
        if not self._noisy:
            target[...] = crop
        elif target.dtype == np.uint8:
            add_saturating(crop, np.rint(draws.offset[index]), target)
        else:
            np.add(crop, draws.offset[index].astype(np.float32), out=target)

    def _mirror(self) -> None:
        """Reverse the bytes of every row of the scratch: words from last to first, and the bytes of each word."""
        words = self._decoded.reshape(STORED_SIZE, -1).view(np.uint64)
        mirrored = self._mirrored.reshape(STORED_SIZE, -1).view(np.uint64)
        np.copyto(mirrored, words[:, ::-1])
        mirrored.byteswap(inplace=True)


def add_saturating(source: npt.NDArray[np.uint8], offset: Floats, target: npt.NDArray[np.uint8]) -> None:
    """target = clip(source + offset, 0, 255) for h x w x 3 uint8 and a whole-numbered offset for each channel.

    Never wider than a byte: first clip to where the sum cannot leave 0..255, then add modulo 256.
    """
    height, width, _ = source.shape
    shift = np.clip(offset, -255, 255).astype(np.int16)
    low = np.tile(np.maximum(-shift, 0).astype(np.uint8), width)
    high = np.tile((255 - np.maximum(shift, 0)).astype(np.uint8), width)
    add = np.tile((shift & 255).astype(np.uint8), width)
    flat = target.reshape(height, width * 3)
    np.maximum(_rows(source), low, out=flat)
    np.minimum(flat, high, out=flat)
    np.add(flat, add, out=flat)


def _rows(source: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """h x 3w view of an h x w x 3 crop, whose rows need not follow each other in memory."""
    height, width, channels = source.shape
    return np.lib.stride_tricks.as_strided(source, (height, width * channels), (source.strides[0], 1), writeable=False)
