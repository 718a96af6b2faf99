"""Image files read and decoded ahead, in threads: the libraries that decode release Python's lock."""

import errno
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from common.errors import BadImage
from common.images import pixels
from common.images.file_bytes import read_file
from common.images.pixels import Rgb
from common.images.stored import stored_pixels
from trainer.predicting.collection import ImageFile

MOST_THREADS = 8

Read = Rgb | str  # stored pixels, or the reason why there are none

_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def read_ahead(files: Iterable[ImageFile], ahead: int) -> Generator[tuple[ImageFile, Read], None, None]:
    """Yield each file with its stored pixels, or the reason why it has none, in order.

    ahead   files decoded before they are asked for, at most

    Closed, it waits for the images that threads are at: a thread that comes back from OpenCV when Python has ended
    aborts the process.

    Raises OSError or MemoryError if the machine lacks files or memory.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # where Pillow is called, filters are set by thread: they race
    pixels.use_one_thread()
    waiting: deque[tuple[ImageFile, Future[Read]]] = deque()
    pool = ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0))), "read-ahead")
    try:
        for file in files:
            waiting.append((file, pool.submit(_read, file)))
            if len(waiting) > ahead:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[ImageFile, Future[Read]]]) -> tuple[ImageFile, Read]:
    file, pending = waiting.popleft()
    return file, pending.result()


def _read(file: ImageFile) -> Read:
    if file.fault:
        return file.fault
    try:
        return stored_pixels(read_file(file.path))
    except BadImage as error:
        return str(error)
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        return error.strerror or str(error)
