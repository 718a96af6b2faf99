"""Crop, flip and colour noise: from a record's JPEG to its place in a slot.

A picture is decoded into a scratch of 256x256 that stays in the processor's cache. A flip decodes the channels in
reverse (BGR) and then reverses every row byte by byte, eight at a time: the mirror image, in RGB. The crop is copied
into the slot once, with the colour offset added on the way, never wider than a byte.

A row of pixels is treated as one run of 3 x width numbers; what can be worked out for a whole batch at once is.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE, StreamSpec
from loader import jpeg
from loader.sampler import Draws, Floats

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]  # uint8 or float32


class Scratch:
    """Room for one decoded picture and its mirror image, used again for every picture of a process."""

    def __init__(self) -> None:
        self.picture: Bytes = _off_alignment(STORED_SIZE * STORED_SIZE * 3).reshape(STORED_SIZE, STORED_SIZE, 3)
        self.rows: Bytes = self.picture.reshape(STORED_SIZE, -1)
        self.mirrored_rows: Bytes = np.empty_like(self.rows)

    def mirror(self, first: int, last: int) -> None:
        """Rows first..last - 1 of a BGR picture's mirror image: words from last to first, each in the other order of
        bytes."""
        words = self.rows[first:last].view("<u8")
        np.copyto(self.mirrored_rows[first:last].view(">u8"), words[:, ::-1])


def _off_alignment(size: int) -> Bytes:
    """`size` bytes that begin 16 behind a multiple of 64.

    Into rows that are aligned to 32 libjpeg-turbo's AVX2 code writes past the cache, which is right for a picture that
    is done with; reading it back from memory, as the crop does, costs a sixth of the whole time of a picture.
    """
    room: Bytes = np.empty(size + 128, np.uint8)
    start = (16 - room.ctypes.data) % 64
    return room[start : start + size]


class Colouring(Protocol):
    """Writes picture `index` of a batch: rows of the decoded crop, coloured, into rows of the slot."""

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None: ...


def plain(index: int, source: Bytes, target: Pixels) -> None:
    """No noise."""
    target[...] = source


class SaturatingNoise:
    """target = clip(source + offset, 0, 255) on bytes, for an offset of each channel rounded half to even.

    Clips first to where the sum cannot leave 0..255, then adds modulo 256. Most offsets have one sign in all three
    channels, so that one side of the clip has nothing to do and is left out.

    offset   float64 n x 3
    width    of the rows, in pixels
    """

    def __init__(self, offset: Floats, width: int) -> None:
        shift = np.clip(np.rint(offset), -255, 255).astype(np.int16)
        self._falls: npt.NDArray[np.bool_] = np.any(shift < 0, axis=1)
        self._rises: npt.NDArray[np.bool_] = np.any(shift > 0, axis=1)
        self._low = np.tile(np.maximum(-shift, 0).astype(np.uint8), width)  # n x 3 width
        self._high = np.tile((255 - np.maximum(shift, 0)).astype(np.uint8), width)
        self._add = np.tile((shift & 255).astype(np.uint8), width)

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        if self._falls[index]:
            source = np.maximum(source, self._low[index], out=target)
        if self._rises[index]:
            source = np.minimum(source, self._high[index], out=target)
        np.add(source, self._add[index], out=target)


class ExactNoise:
    """target = source + offset in float32, unclipped; arguments as of SaturatingNoise."""

    def __init__(self, offset: Floats, width: int) -> None:
        self._add = np.tile(offset.astype(np.float32), width)

    def __call__(self, index: int, source: Bytes, target: Pixels) -> None:
        np.add(source, self._add[index], out=target)


class TrainingBatch:
    """Fills `images` (n x crop x crop x 3) with what `draws` decides for each of the n pictures."""

    def __init__(self, spec: StreamSpec, draws: Draws, images: Pixels, scratch: Scratch) -> None:
        self._crop, self._scratch = spec.crop, scratch
        self._targets = images.reshape(len(images), spec.crop, 3 * spec.crop)
        self._top, self._left, self._flip = draws.top.tolist(), draws.left.tolist(), draws.flip.tolist()
        self._colour: Colouring = plain
        if spec.sigma > 0:
            noise = SaturatingNoise if spec.pixels == "uint8" else ExactNoise
            self._colour = noise(draws.offset, spec.crop)

    def decode(self, index: int, jpeg_bytes: bytes) -> None:
        """Decode what is to be picture `index`, into the scratch. Raises BadImage."""
        jpeg.decode(jpeg_bytes, self._scratch.picture, bgr=self._flip[index])

    def finish(self, index: int) -> None:
        """Crop, flip and colour what was decoded last, which is picture `index`."""
        scratch, crop, top, left = self._scratch, self._crop, self._top[index], self._left[index]
        rows = scratch.rows
        if self._flip[index]:
            scratch.mirror(top, top + crop)
            rows, left = scratch.mirrored_rows, STORED_SIZE - crop - left
        self._colour(index, rows[top : top + crop, 3 * left : 3 * (left + crop)], self._targets[index])


class FullBatch:
    """Fills `images` (n x 256 x 256 x 3) with the pictures as they are stored."""

    def __init__(self, images: Pixels, scratch: Scratch) -> None:
        self._images, self._scratch = images, scratch

    def decode(self, index: int, jpeg_bytes: bytes) -> None:
        """Decode picture `index`. Raises BadImage."""
        if self._images.dtype == np.uint8:
            jpeg.decode(jpeg_bytes, self._images[index])
        else:
            jpeg.decode(jpeg_bytes, self._scratch.picture)

    def finish(self, index: int) -> None:
        """What was decoded last is picture `index`."""
        if self._images.dtype != np.uint8:
            self._images[index] = self._scratch.picture
