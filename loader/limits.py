"""The limits on one picture, decided from its header and its length, before anything is decoded or allocated.

A file of some kilobytes can ask for gigabytes, or for minutes: a header of 65500 x 65500, a progressive JPEG of tens of
thousands of scans over one small picture. What passes here takes MAX_BYTES at the very most, and some seconds; but for
PPMs in text or of 16 bits, which Pillow decodes in Python: those take some seconds a megapixel, and are as long.
"""

import struct

from common.errors import BadImage

MAX_BYTES = 448 << 20  # of memory: the file, what its decoder holds, and the pixels
MAX_PIXELS = 100_000_000  # 300 MB decoded; the largest picture of ILSVRC2012 has about 60 million
MAX_SCANS = 100  # encoders write 1 to 20
MAX_SCANNED_PIXELS = 2_000_000_000  # pixels times scans: each scan goes over the whole picture
RGB_BYTES = 3  # of a pixel
_PIXELS_PER_BYTE = 512  # of a Huffman-coded JPEG at most: a bit, or more, for each block of 8x8
_COEFFICIENT_BYTES = 2  # libjpeg keeps those of the whole picture if they come in several scans
_MOST_COMPONENTS = 4

_START_OF_SCAN = b"\xff\xda"
_NO_FRAMES = {0xC4, 0xC8, 0xCC}  # tables and a reserved marker among the markers of frames


def check_size(height: int, width: int) -> None:
    """Raises BadImage if a picture of any format is larger than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")


def check_memory(height: int, width: int, file_bytes: int, bytes_per_pixel: float) -> None:
    """Raises BadImage if the file and so many bytes a pixel are more than MAX_BYTES."""
    needed = file_bytes + height * width * bytes_per_pixel
    if needed > MAX_BYTES:
        raise BadImage(
            f"{width}x{height} pixels take {needed / 2**20:,.0f} MiB to decode, which are more than {MAX_BYTES >> 20}"
        )


def check_jpeg(data: bytes, height: int, width: int, bytes_per_pixel: int = RGB_BYTES) -> None:
    """Raises BadImage if a JPEG whose header says this size would cost too much, or cannot be complete.

    `bytes_per_pixel` are those of the decoded pixels. Scans are counted wherever their marker stands, in a thumbnail
    too, so there are never more than were counted.
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
    if height * width * most + len(data) > MAX_BYTES:  # few are so large that their header is worth parsing
        check_memory(height, width, len(data), bytes_per_pixel + _COEFFICIENT_BYTES * _samples_kept(data))


def _samples_kept(jpeg: bytes) -> float:
    """Samples a pixel whose coefficients libjpeg holds until the last scan: 0 if one scan has all components."""
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
    """Samples a pixel of each component, from what a frame header says of them: identifier, sampling, table."""
    whole = len(components) // 3 * 3
    factors = [(sampling >> 4) * (sampling & 15) for _, sampling, _ in struct.iter_unpack("BBB", components[:whole])]
    return [factor / max(factors) for factor in factors] if factors and min(factors) else [1.0] * _MOST_COMPONENTS
