"""A record's bytes, their faults, and the digest of all records.

A record is label and checksum (uint32 each, little-endian), then the JPEG. The checksum is CRC-32 of label and JPEG.
"""

import hashlib
import struct
import zlib

import msgpack

from common.errors import BadImage
from common.images import jpeg as codec
from common.spec import STORED_SIZE
from loader.stats import Stats

FORMAT = 1
HEAD = struct.Struct("<II")
LONGEST = 1 << 20  # bytes, far more than a JPEG of the stored size takes: a longer one is a damaged length


def record_bytes(label: int, jpeg: bytes) -> bytes:
    return HEAD.pack(label, _checksum(label, jpeg)) + jpeg


def extend_chain(chain: bytes, record: bytes) -> bytes:
    """16 bytes that stand for all records up to this one; the first chain is b""."""
    return hashlib.blake2b(chain + record[: HEAD.size], digest_size=16).digest()


def digest_of(chain: bytes, split: str, classes: tuple[str, ...], stats: Stats) -> bytes:
    """16 bytes naming a split's contents: equal digests, equal labels, images, class names and statistics."""
    contents = [FORMAT, split, list(classes), stats.to_fields(), chain]
    return hashlib.blake2b(msgpack.packb(contents), digest_size=16).digest()


def damage(label: int, checksum: int, jpeg: bytes, classes: int) -> str | None:
    """The record's damage, found without parsing its JPEG, or None."""
    if checksum != _checksum(label, jpeg):
        return "checksum"
    if label >= classes:
        return f"label {label} of {classes} classes"
    return None


def fault(label: int, checksum: int, jpeg: bytes, classes: int) -> str | None:
    """The reason not to use the record, its JPEG's header included, or None."""
    if damaged := damage(label, checksum, jpeg, classes):
        return damaged
    try:
        height, width = codec.size(jpeg)
    except BadImage as error:
        return str(error)
    return None if (height, width) == (STORED_SIZE, STORED_SIZE) else f"{width}x{height} pixels"


def _checksum(label: int, jpeg: bytes) -> int:
    return zlib.crc32(jpeg, zlib.crc32(struct.pack("<I", label)))
