"""Small files that ask a decoder for gigabytes or for minutes."""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from common.images import jpeg
from common.spec import STORED_SIZE

SCANS = 30_000


def with_size(data: bytes, height: int, width: int) -> bytes:
    """The JPEG with another height and width in its frame header."""
    frame = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(marker)) > 0)
    return data[: frame + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[frame + 9 :]


@functools.cache
def saved_as_jpeg(height: int, width: int, mode: str = "RGB", *, progressive: bool) -> bytes:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    rgb = (np.stack([x, y, 1 - x], axis=2) * 200 + 20).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(file, "JPEG", progressive=progressive)
    return file.getvalue()


@functools.cache
def of_many_scans(mode: str = "RGB", scans: int = SCANS, size: int = STORED_SIZE) -> bytes:
    """A progressive JPEG that repeats its first scan of high coefficients."""
    sound = saved_as_jpeg(size, size, mode, progressive=True)
    starts = [at for at in range(len(sound)) if sound.startswith(b"\xff\xda", at)]
    tables = sound.rindex(b"\xff\xc4", 0, starts[1])
    scan = sound[tables : sound.index(b"\xff\xc4", starts[1])]
    return sound[: starts[1] + len(scan) - (starts[1] - tables)] + scan * scans + b"\xff\xd9"


def of_many_sequential_scans(scans: int = SCANS) -> bytes:
    """A baseline JPEG that repeats the scan of its first component."""
    sound = saved_as_jpeg(STORED_SIZE, STORED_SIZE, "L", progressive=False)
    frame, start = sound.index(b"\xff\xc0"), sound.index(b"\xff\xda")
    three = b"\xff\xc0\0\x11\x08" + sound[frame + 5 : frame + 9] + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    header = sound[:frame] + three + sound[frame + 13 : start]
    return header + sound[start:-2] * scans + b"\xff\xd9"


def behind_a_stored_header(hidden: bytes) -> bytes:
    """Another JPEG, with the first bytes of a stored one in a comment before it."""
    stored = jpeg.encode(np.zeros((STORED_SIZE, STORED_SIZE, 3), np.uint8), 90)[2:640]
    return b"\xff\xd8\xff\xfe" + (len(stored) + 2).to_bytes(2, "big") + stored + hidden[2:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "huge": lambda: with_size(saved_as_jpeg(48, 60, progressive=False), 65500, 65500),
    "huge and progressive": lambda: with_size(saved_as_jpeg(48, 60, progressive=True), 65500, 65500),
    "large for its bytes": lambda: with_size(saved_as_jpeg(48, 60, progressive=True), 9000, 9000),
    "huge, in inks": lambda: with_size(saved_as_jpeg(48, 60, "CMYK", progressive=False), 65500, 65500),
    "many scans": of_many_scans,
    "many scans, in inks": lambda: of_many_scans("CMYK"),
    "many sequential scans": of_many_sequential_scans,
    "few scans of a large picture": lambda: of_many_scans("L", scans=90, size=5000),
    "many scans behind a stored header": lambda: behind_a_stored_header(of_many_scans(size=2048)),
}
