"""Digests of delivered images, and of an epoch.

    image     64 bits: XXH3 of the pixels as delivered, seeded with record and label
    rolling   128 bits: XXH3 of the previous rolling digest (empty at first) and the image's, little-endian

XXH3 detects damage, not forgery.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Digests = npt.NDArray[np.uint64]
Hasher = xxhash.xxh3_128  # `update` releases the GIL

NOTHING = b""  # the rolling digest before the first image


def of_image(pixels: npt.NDArray[Any], record: int, label: int) -> int:
    """64 bits, of height x width x 3 pixels in C order."""
    return xxhash.xxh3_64_intdigest(pixels.data, seed=record << 32 | label)


def of_images(images: npt.NDArray[Any], records: Iterable[int], labels: Iterable[int]) -> Digests:
    each = (of_image(*parts) for parts in zip(images, records, labels, strict=True))
    return np.fromiter(each, np.uint64, len(images))


def roll(rolling: bytes, digests: Digests) -> bytes:
    for digest in _little_endian(digests):
        rolling = xxhash.xxh3_128_digest(rolling + digest)
    return rolling


def _little_endian(digests: Digests) -> Iterator[bytes]:
    raw = digests.astype("<u8").tobytes()
    return (raw[at : at + 8] for at in range(0, len(raw), 8))
