"""One process of the packing: pictures in, records and sums out. It opens no data set.

It ends when its pipe does, so also when the parent is killed. Its memory is limited: what a picture's header says of
its cost need not be true.
"""

import contextlib
import re
import resource
import signal
from ctypes import c_int64
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.cli import console
from common.errors import BadImage
from common.malloc import give_back_large_blocks
from loader import jpeg, limits, pixels
from loader.packing import picture
from loader.packing.sources import Source
from loader.records import record_bytes
from loader.stats import PartialSums

QUALITY = 90  # of the stored JPEG, 4:2:0
_SLACK_BYTES = 24 << 20  # beside what the limits count: decoders' tables, libraries loaded late, the answer

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

    return {"decoder": jpeg.decoder(), "resize": pixels.version(), "others": f"Pillow {pillow}"}


def stored_jpeg(data: bytes) -> tuple[bytes, bool]:
    """The JPEG that is kept of a picture file, and whether its decoder warned; BadImage with the reason.

    MemoryError only if the machine has no memory, not if the picture takes more than a picture may.
    """
    with contextlib.suppress(MemoryError):
        rgb, warned = picture.decode(data)
        return jpeg.encode(pixels.centre_square(rgb), QUALITY), warned
    # Now that all is given back: is there as much as a picture may take? Then this one took more.
    np.empty(limits.MAX_BYTES - len(data), np.uint8)
    raise BadImage(f"it takes more than {limits.MAX_BYTES >> 20} MiB to decode, whatever its header says")


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


def limit_memory() -> None:
    """Let this process have as much more memory as one picture may take; beyond that comes a MemoryError.

    Some sandboxes' kernels do not tell what it has now; then there is no limit.
    """
    held = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if held is None:
        return
    wanted = int(held[1]) * 1024 + limits.MAX_BYTES + _SLACK_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lowest = min(limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))


def run(pipe: Connection, source: Source, working_on: c_int64) -> None:
    """Answer each list of items on `pipe`, until it ends. `working_on` tells the parent, should this process die."""
    console.take_over()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    pixels.use_one_thread()
    give_back_large_blocks()
    limit_memory()
    while True:
        try:
            pipe.send(pack_chunk(source, pipe.recv(), working_on))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
