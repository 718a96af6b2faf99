"""One process of the packing: pictures in, records and sums out. It opens no data set.

It ends when its pipe does, so also when the parent is killed.
"""

import signal
from ctypes import c_int64
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from common.errors import BadImage
from loader import jpeg, pixels
from loader.packing import picture
from loader.packing.sources import Source
from loader.records import record_bytes
from loader.stats import PartialSums

QUALITY = 90  # of the stored JPEG, 4:2:0

Items = npt.NDArray[np.int64]


@dataclass(slots=True)
class Packed:
    """A chunk done: for each item its record's bytes, or the reason why it is none."""

    outcomes: list[bytes | str]
    sums: PartialSums
    warned: int


@dataclass(slots=True)
class Failure:
    """A chunk that could not be done, for a cause that lies not in one picture."""

    item: int
    cause: str


def versions() -> dict[str, str]:
    """What decides the stored pixels beside the source."""
    from PIL import __version__ as pillow

    return {"decoder": jpeg.decoder_name(), "resize": pixels.version(), "others": f"Pillow {pillow}"}


def stored_jpeg(data: bytes) -> tuple[bytes, bool]:
    """The JPEG that is kept of a picture file, and whether its decoder warned; BadImage with the reason."""
    rgb, warned = picture.decode(data)
    return jpeg.encode(pixels.centre_square(rgb), QUALITY), warned


def pack_chunk(source: Source, items: Items, working_on: c_int64) -> Packed | Failure:
    """At most `stats.MOST_PICTURES` items. The sums are those of the stored JPEGs as training will decode them."""
    packed = Packed([], PartialSums(), 0)
    for item in map(int, items):
        working_on.value = item
        try:
            kept, warned = stored_jpeg(source.read(item))
        except BadImage as error:
            packed.outcomes.append(str(error))
            continue
        except (OSError, MemoryError) as error:
            return Failure(item, str(error) or type(error).__name__)
        packed.sums.add(jpeg.decode(kept))
        packed.warned += warned
        packed.outcomes.append(record_bytes(int(source.labels[item]), kept))
    return packed


def run(pipe: Connection, source: Source, working_on: c_int64) -> None:
    """Answer each list of items on `pipe`, until it ends. `working_on` tells the parent, should this process die."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    pixels.use_one_thread()
    while True:
        try:
            pipe.send(pack_chunk(source, pipe.recv(), working_on))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
