"""Image files read and decoded ahead, in threads: the libraries that decode release Python's lock."""

import errno
import os
import stat
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from multiprocessing.pool import AsyncResult as Pending
from multiprocessing.pool import ThreadPool  # its threads end with the process, in the midst of an image too

from common.errors import BadImage
from common.images import pixels
from common.images.pixels import Rgb
from common.images.stored import stored_pixels
from trainer.predicting.collection import ImageFile

MAX_FILE_BYTES = 1 << 28  # as in packing
MOST_THREADS = 8

Read = Rgb | str  # stored pixels, or the reason why there are none

_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def read_ahead(files: Iterable[ImageFile], ahead: int) -> Generator[tuple[ImageFile, Read], None, None]:
    """Yield each file with its stored pixels, or the reason why it has none, in order.

    ahead   files decoded before they are asked for, at most

    Raises OSError or MemoryError if the machine lacks files or memory.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # where Pillow is called, filters are set by thread: they race
    pixels.use_one_thread()
    waiting: deque[tuple[ImageFile, Pending[Read]]] = deque()
    with ThreadPool(min(MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
        for file in files:
            waiting.append((file, pool.apply_async(_read, (file,))))
            if len(waiting) > ahead:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _next(waiting: "deque[tuple[ImageFile, Pending[Read]]]") -> tuple[ImageFile, Read]:
    file, pending = waiting.popleft()
    return file, pending.get()


def _read(file: ImageFile) -> Read:
    if file.fault:
        return file.fault
    try:
        return stored_pixels(bytes_of(file.path))
    except BadImage as error:
        return str(error)


def bytes_of(path: bytes) -> bytes:
    """A regular file's bytes. Raises BadImage with the reason; never waits for a FIFO."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadImage(f"{status.st_size:,} bytes are more than {MAX_FILE_BYTES:,}")
            return file.readall() or b""
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise BadImage(_reason(path, error)) from None


def _reason(path: bytes, error: OSError) -> str:
    if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device that is not there
        return "not a regular file"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return "a link to nothing"
    return error.strerror or str(error)
