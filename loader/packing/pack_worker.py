"""A packing process: image files in, records and sums out."""

import contextlib
import re
import resource
from collections.abc import Callable
from ctypes import c_int64
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import BadImage, PackError
from common.images import image_file, jpeg, limits, pixels
from common.malloc import give_back_large_blocks
from loader.packing.sources import Source
from loader.records import record_bytes
from loader.stats import PartialSums

QUALITY = 90  # of the stored JPEG, 4:2:0
RESUME = "what is committed stays: run the same command again to resume"
_SLACK_BYTES = 24 << 20  # beside what the limits count: decoders' tables, libraries loaded late, the answer

Items = npt.NDArray[np.int64]


@dataclass(slots=True)
class Packed:
    """A finished chunk: for each item its record, or the reason why it is left out."""

    outcomes: list[bytes | str]
    sums: PartialSums
    warned: int


def versions() -> dict[str, str]:
    """The libraries that decide the stored pixels."""
    from PIL import __version__ as pillow

    return {"decoder": jpeg.decoder(), "resize": pixels.version(), "others": f"Pillow {pillow}"}


def stored_jpeg(data: bytes) -> tuple[bytes, bool]:
    """The JPEG to store, and True if the decoder warned. Raises BadImage with the reason.

    Raises MemoryError only if the machine is out of memory, not if the image takes more than one may.
    """
    with contextlib.suppress(MemoryError):
        rgb, warned = image_file.decode(data)
        return jpeg.encode(pixels.centre_square(rgb), QUALITY), warned
    # Everything is freed by now. If as much as an image may take can be had, this one took more.
    np.empty(limits.MAX_BYTES - len(data), np.uint8)
    raise BadImage(f"it takes more than {limits.MAX_BYTES >> 20} MiB to decode, whatever its header says")


def start(source: Source, working_on: c_int64) -> Callable[[Items], Packed]:
    pixels.use_one_thread()
    give_back_large_blocks()
    limit_memory()
    return partial(pack_chunk, source, working_on)


def pack_chunk(source: Source, working_on: c_int64, items: Items) -> Packed:
    """Pack at most `stats.MAX_IMAGES` items. The sums are over the stored JPEGs as training will decode them.

    Raises PackError if a file cannot be read, or memory is full.
    """
    packed = Packed([], PartialSums(), 0)
    for item in map(int, items):
        working_on.value = item
        try:
            stored, warned = stored_jpeg(source.read(item))
        except BadImage as error:
            packed.outcomes.append(str(error))
            continue
        except (OSError, MemoryError) as error:
            cause = str(error) or type(error).__name__
            raise PackError(f"{source.name(item)} cannot be read: {cause}; {RESUME}") from None
        packed.sums.add(jpeg.decode(stored))
        packed.warned += warned
        packed.outcomes.append(record_bytes(int(source.labels[item]), stored))
    return packed


def limit_memory() -> None:
    """Limit this process to as much more memory as one image may take: its header may understate it."""
    held = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if held is None:
        return
    wanted = int(held[1]) * 1024 + limits.MAX_BYTES + _SLACK_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lowest = min(limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))
