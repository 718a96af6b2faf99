"""What a picture may cost, decided from its header and its length, before anything is decoded or allocated.

A file of some kilobytes can ask for gigabytes, or for minutes: a header of 65500 x 65500, a progressive JPEG of tens of
thousands of scans over one small picture. What passes here takes some two seconds and a gigabyte at the very most.
"""

from common.errors import BadImage

MAX_PIXELS = 100_000_000  # 300 MB decoded; the largest picture of ILSVRC2012 has about 60 million
MAX_SCANS = 100  # encoders write 1 to 20
MAX_SCANNED_PIXELS = 2_000_000_000  # pixels times scans: each scan goes over the whole picture
_PIXELS_PER_BYTE = 512  # of a Huffman-coded JPEG at most: a bit, or more, for each block of 8x8

_START_OF_SCAN = b"\xff\xda"


def check_size(height: int, width: int) -> None:
    """Raises BadImage where a picture of any format is larger than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")


def check_jpeg(data: bytes, height: int, width: int) -> None:
    """Raises BadImage where a JPEG whose header says this size would cost too much, or cannot be complete.

    Scans are counted wherever their marker stands, in a thumbnail too, so there are never more than were counted.
    """
    check_size(height, width)
    if height * width > _PIXELS_PER_BYTE * len(data):
        raise BadImage(f"{width}x{height} pixels cannot be in {len(data):,} bytes")
    scans = data.count(_START_OF_SCAN)
    if scans > MAX_SCANS:
        raise BadImage(f"{scans:,} scans are more than {MAX_SCANS}")
    if scans * height * width > MAX_SCANNED_PIXELS:
        raise BadImage(f"{scans} scans of {width}x{height} pixels are more than {MAX_SCANNED_PIXELS:,}")
