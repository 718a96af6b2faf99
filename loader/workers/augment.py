"""Crop, flip and colour noise: from a record's JPEG to its place in a slot.

An image is decoded into a scratch that stays in the cache. To flip it, the channels are decoded in reverse (BGR) and
every row is reversed byte by byte. The crop is copied into the slot once, the colour offset added on the way.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE, StreamSpec
from loader import jpeg, pixels
from loader.workers.sampler import Draws, Floats

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]  # uint8 or float32


class Scratch:
    """Room for one decoded image and its mirror image."""

    def __init__(self) -> None:
        self.image: Bytes = _off_alignment(STORED_SIZE * STORED_SIZE * 3).reshape(STORED_SIZE, STORED_SIZE, 3)
        self.rows: Bytes = self.image.reshape(STORED_SIZE, -1)
        self.mirrored_rows: Bytes = np.empty_like(self.rows)

    def mirror(self, first: int, last: int) -> None:
        """Mirror rows first..last - 1 of a BGR image, byte by byte."""
        words = self.rows[first:last].view("<u8")
        np.copyto(self.mirrored_rows[first:last].view(">u8"), words[:, ::-1])


def _off_alignment(size: int) -> Bytes:
    """`size` bytes that begin 16 behind a multiple of 64.

    libjpeg-turbo writes rows aligned to 32 past the cache; reading them back costs a sixth of an image.
    """
    room: Bytes = np.empty(size + 128, np.uint8)
    start = (16 - room.ctypes.data) % 64
    return room[start : start + size]


class Colouring(Protocol):
    """Writes the rows of a crop, coloured, into the slot."""

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None: ...


def plain(index: int, source: Bytes, target: Pixels) -> None:
    target[...] = source


class SaturatingNoise:
    """target = clip(source + offset, 0, 255) on bytes; `offset` float64 n x 3, rounded half to even; `width` in pixels.

    Most images have one sign in all channels, and take one pass.
    """

    def __init__(self, offset: Floats, width: int) -> None:
        shift = np.clip(np.rint(offset), -255, 255)
        self._width = width
        self._more, self._less = _amounts(np.maximum(shift, 0)), _amounts(np.maximum(-shift, 0))

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        more, less = self._more[index], self._less[index]
        source, target = (rows.reshape(len(rows), self._width, 3) for rows in (source, target))  # views
        if any(more) or not any(less):
            pixels.add_saturating(source, more, target)
            source = target
        if any(less):
            pixels.subtract_saturating(source, less, target)


def _amounts(of_channels: Floats) -> list[pixels.Amounts]:
    return [(red, green, blue, 0.0) for red, green, blue in of_channels.tolist()]


class ExactNoise:
    """target = source + offset in float32, unclipped; arguments as SaturatingNoise's."""

    def __init__(self, offset: Floats, width: int) -> None:
        self._add = np.tile(offset.astype(np.float32), width)

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        np.add(source, self._add[index], out=target)


class TrainingBatch:
    """Fills `images` (n x crop x crop x 3) with augmented crops."""

    def __init__(self, spec: StreamSpec, draws: Draws, images: Pixels, scratch: Scratch) -> None:
        self._crop, self._scratch = spec.crop, scratch
        self._targets = images.reshape(len(images), spec.crop, 3 * spec.crop)
        self._top, self._left, self._flip = draws.top.tolist(), draws.left.tolist(), draws.flip.tolist()
        self._colour: Colouring = plain
        if spec.sigma > 0:
            noise = SaturatingNoise if spec.pixels == "uint8" else ExactNoise
            self._colour = noise(draws.offset, spec.crop)

    def decode(self, index: int, jpeg_bytes: bytes) -> None:
        """Raises BadImage."""
        jpeg.decode(jpeg_bytes, self._scratch.image, bgr=self._flip[index])

    def finish(self, index: int) -> None:
        """Crop, flip and colour image `index`, which was decoded last."""
        scratch, crop, top, left = self._scratch, self._crop, self._top[index], self._left[index]
        rows = scratch.rows
        if self._flip[index]:
            scratch.mirror(top, top + crop)
            rows, left = scratch.mirrored_rows, STORED_SIZE - crop - left
        self._colour(index, rows[top : top + crop, 3 * left : 3 * (left + crop)], self._targets[index])


class FullBatch:
    """Fills `images` (n x 256 x 256 x 3) with the images as stored."""

    def __init__(self, images: Pixels, scratch: Scratch) -> None:
        self._images, self._scratch = images, scratch

    def decode(self, index: int, jpeg_bytes: bytes) -> None:
        """Raises BadImage."""
        if self._images.dtype == np.uint8:
            jpeg.decode(jpeg_bytes, self._images[index])
        else:
            jpeg.decode(jpeg_bytes, self._scratch.image)

    def finish(self, index: int) -> None:
        if self._images.dtype != np.uint8:
            self._images[index] = self._scratch.image
