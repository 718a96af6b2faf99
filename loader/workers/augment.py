"""Crop, flip and colour noise: from a decoded image to its place in a slot.

An image is decoded into a scratch that stays in the cache, or was kept. Its crop is mirrored if it is to be flipped,
then copied into the slot once, the colour offset added on the way.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.images import pixels
from common.spec import STORED_SIZE, StreamSpec
from loader.workers.sampler import Draws, Floats

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]  # uint8 or float32


class Scratch:
    """Room for one decoded image and its mirrored crop."""

    def __init__(self) -> None:
        self.image: Bytes = _off_alignment(STORED_SIZE * STORED_SIZE * 3).reshape(STORED_SIZE, STORED_SIZE, 3)
        self.mirrored: Bytes = np.empty_like(self.image)


def _off_alignment(size: int) -> Bytes:
    """`size` bytes that begin 16 behind a multiple of 64.

    libjpeg-turbo writes rows aligned to 32 past the cache; reading them back costs a sixth of an image.
    """
    room: Bytes = np.empty(size + 128, np.uint8)
    start = (16 - room.ctypes.data) % 64
    return room[start : start + size]


class Colouring(Protocol):
    """Writes a crop, coloured, into the slot."""

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None: ...


def plain(index: int, source: Bytes, target: Pixels) -> None:
    target[...] = source


class SaturatingNoise:
    """target = clip(source + offset, 0, 255) on bytes; `offset` float64 n x 3, rounded half to even.

    `shape` is an image's. Most images have one sign in all channels, and take one pass.
    """

    def __init__(self, offset: Floats, shape: tuple[int, ...]) -> None:
        shift = np.clip(np.rint(offset), -255, 255)
        self._more, self._less = (_rows(np.maximum(part, 0), shape[1]) for part in (shift, -shift))
        self._amounts: Bytes = np.empty(shape, np.uint8)  # stays in the cache: OpenCV is slower at adding scalars

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        more, less = self._more[index], self._less[index]
        if more is not None or less is None:
            pixels.add_saturating(source, self._all(more), target)
            source = target
        if less is not None:
            pixels.subtract_saturating(source, self._all(less), target)

    def _all(self, row: Bytes | None) -> Bytes:
        self._amounts.reshape(len(self._amounts), -1)[...] = 0 if row is None else row  # a view with longer runs
        return self._amounts


def _rows(of_channels: Floats, width: int) -> list[Bytes | None]:
    """A row of pixels for each image; None if all are 0."""
    rows = np.tile(of_channels.astype(np.uint8), width)
    return [row if some else None for row, some in zip(rows, np.any(of_channels, axis=1), strict=True)]


class ExactNoise:
    """target = source + offset in float32, unclipped; `offset` as SaturatingNoise's, `width` in pixels."""

    def __init__(self, offset: Floats, width: int) -> None:
        self._add = np.tile(offset.astype(np.float32), width)

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        source, target = (image.reshape(len(image), -1) for image in (source, target))  # views with longer runs
        np.add(source, self._add[index], out=target)


class TrainingBatch:
    """Fills `images` (n x crop x crop x 3) with augmented crops."""

    def __init__(self, spec: StreamSpec, draws: Draws, images: Pixels, scratch: Scratch) -> None:
        self._crop, self._images, self._scratch = spec.crop, images, scratch.image
        self._mirrored = scratch.mirrored[: spec.crop, : spec.crop]
        self._top, self._left, self._flip = draws.top.tolist(), draws.left.tolist(), draws.flip.tolist()
        self._colour: Colouring = plain
        if spec.sigma > 0:
            if spec.pixels == "float32":
                self._colour = ExactNoise(draws.offset, spec.crop)
            else:
                self._colour = SaturatingNoise(draws.offset, spec.image_shape)

    def room(self, index: int) -> Bytes:
        """Room to decode image `index` to, 256x256x3."""
        return self._scratch

    def finish(self, index: int, rgb: Bytes) -> None:
        """Crop, flip and colour image `index`, decoded to the 256x256x3 `rgb`."""
        crop, top, left = self._crop, self._top[index], self._left[index]
        source = rgb[top : top + crop, left : left + crop]
        if self._flip[index]:
            pixels.mirror(source, self._mirrored)
            source = self._mirrored
        self._colour(index, source, self._images[index])


class FullBatch:
    """Fills `images` (n x 256 x 256 x 3) with the images as stored."""

    def __init__(self, images: Pixels, scratch: Scratch) -> None:
        self._images, self._scratch = images, scratch.image
        self._in_slot: Bytes | None = None  # the last room, if it is the slot's own

    def room(self, index: int) -> Bytes:
        self._in_slot = self._images[index] if self._images.dtype == np.uint8 else None
        return self._scratch if self._in_slot is None else self._in_slot

    def finish(self, index: int, rgb: Bytes) -> None:
        if rgb is not self._in_slot:
            self._images[index] = rgb
