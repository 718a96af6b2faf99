"""A packing process: image files in, records and sums out."""

from collections.abc import Callable
from ctypes import c_int64
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from common.errors import BadImage, PackError
from common.images import jpeg, pixels
from common.images.limits import limit_memory
from common.images.stored import stored_jpeg
from common.malloc import give_back_large_blocks
from loader.packing.sources import Source
from loader.records import record_bytes
from loader.stats import PartialSums

RESUME = "what is committed stays: run the same command again to resume"

Items = npt.NDArray[np.int64]


@dataclass(slots=True)
class Packed:
    """A finished chunk: for each item its record, or the reason why it is left out."""

    outcomes: list[bytes | str]
    sums: PartialSums
    warned: int


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
