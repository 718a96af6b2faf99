"""Digests of delivered pictures: of one, of a batch, of an epoch. The only file that knows xxhash.

    picture   64 bits: XXH3 of its pixels as delivered, seeded with its record and label
    rolling   128 bits: XXH3 of the rolling digest before it (nothing, at first) and the picture's, little end first

Picture is added to picture, so a rolling digest depends on what was delivered in which order, not on the batch size,
on who delivered it, or on where a run was interrupted. They find what goes wrong, not who wants it to: XXH3 is no
cryptographic hash.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Digests = npt.NDArray[np.uint64]

NOTHING = b""  # the rolling digest before the first picture


def of_image(pixels: npt.NDArray[Any], record: int, label: int) -> int:
    """64 bits, of height x width x 3 pixels in C order; record and label are below 2**32."""
    return xxhash.xxh3_64_intdigest(pixels.data, seed=record << 32 | label)


def of_images(images: npt.NDArray[Any], records: Iterable[int], labels: Iterable[int]) -> Digests:
    """uint64 n, the digest of each of n pictures."""
    each = (of_image(*parts) for parts in zip(images, records, labels, strict=True))
    return np.fromiter(each, np.uint64, len(images))


def roll(rolling: bytes, digests: Digests) -> bytes:
    """16 bytes: the rolling digest after these pictures, from the one before them."""
    for digest in _little_endian(digests):
        rolling = xxhash.xxh3_128_digest(rolling + digest)
    return rolling


def _little_endian(digests: Digests) -> Iterator[bytes]:
    raw = digests.astype("<u8").tobytes()
    return (raw[at : at + 8] for at in range(0, len(raw), 8))
