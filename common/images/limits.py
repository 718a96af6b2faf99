"""Decompression-bomb limits, checked from an image's header and length before anything is allocated.

Each check raises BadImage. An image that passes takes at most MAX_BYTES and some seconds; only PPMs in text or of 16
bits, which Pillow decodes in Python, take some seconds a megapixel.
"""

import re
import resource
import struct
from pathlib import Path

from ..errors import BadImage

MAX_BYTES = 448 << 20  # of memory: the file, what its decoder holds, and the pixels
MAX_PIXELS = 100_000_000  # 300 MB decoded; the largest image of ILSVRC2012 has about 60 million
MAX_SCANS = 100  # encoders write 1 to 20
MAX_SCANNED_PIXELS = 2_000_000_000  # pixels times scans: each scan goes over the whole image
RGB_BYTES = 3  # of a pixel
_SLACK_BYTES = 24 << 20  # beside what is counted here: decoders' tables, libraries loaded late
_PIXELS_PER_BYTE = 512  # of a Huffman-coded JPEG at most: a bit, or more, for each block of 8x8
_COEFFICIENT_BYTES = 2  # libjpeg keeps those of the whole image if they come in several scans
_MOST_COMPONENTS = 4

_START_OF_SCAN = b"\xff\xda"
_NO_FRAMES = {0xC4, 0xC8, 0xCC}  # tables and a reserved marker among the markers of frames


def check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")


def check_memory(height: int, width: int, file_bytes: int, bytes_per_pixel: float) -> None:
    needed = file_bytes + height * width * bytes_per_pixel
    if needed > MAX_BYTES:
        raise BadImage(
            f"{width}x{height} pixels take {needed / 2**20:,.0f} MiB to decode, which are more than {MAX_BYTES >> 20}"
        )


def check_jpeg(data: bytes, height: int, width: int, bytes_per_pixel: int = RGB_BYTES) -> None:
    """Check the cost of a JPEG, and that it can be complete; `bytes_per_pixel` is of the decoded pixels.

    Scan markers are counted everywhere, in thumbnails too: an upper bound.
    """
    check_size(height, width)
    if height * width > _PIXELS_PER_BYTE * len(data):
        raise BadImage(f"{width}x{height} pixels cannot be in {len(data):,} bytes")
    scans = data.count(_START_OF_SCAN)
    if scans > MAX_SCANS:
        raise BadImage(f"{scans:,} scans are more than {MAX_SCANS}")
    if scans * height * width > MAX_SCANNED_PIXELS:
        raise BadImage(f"{scans} scans of {width}x{height} pixels are more than {MAX_SCANNED_PIXELS:,}")
    most = bytes_per_pixel + _COEFFICIENT_BYTES * _MOST_COMPONENTS
    if height * width * most + len(data) > MAX_BYTES:  # the header is parsed for the few that are so large
        check_memory(height, width, len(data), bytes_per_pixel + _COEFFICIENT_BYTES * _samples_kept(data))


def _samples_kept(jpeg: bytes) -> float:
    """Samples per pixel whose coefficients libjpeg keeps until the last scan: 0 if one scan has all components."""
    at, progressive = 2, False
    samples: list[float] = []
    while at + 10 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xFF:  # one byte of filling
            at += 1
            continue
        if marker == _START_OF_SCAN[1]:
            return sum(samples) if progressive or jpeg[at + 4] < len(samples) else 0
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            progressive, samples = marker not in (0xC0, 0xC1), _samples(jpeg[at + 10 : at + 2 + length])
        at += 2 + length
    return _MOST_COMPONENTS  # a header of no known shape


def _samples(components: bytes) -> list[float]:
    whole = len(components) // 3 * 3
    factors = [(sampling >> 4) * (sampling & 15) for _, sampling, _ in struct.iter_unpack("BBB", components[:whole])]
    return [factor / max(factors) for factor in factors] if factors and min(factors) else [1.0] * _MOST_COMPONENTS


def limit_memory() -> None:
    """Limit this process to as much more memory as one image may take: its header may understate it."""
    held = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if held is None:
        return
    wanted = int(held[1]) * 1024 + MAX_BYTES + _SLACK_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lowest = min(limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))
