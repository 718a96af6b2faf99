"""Regular files alone: a FIFO would block for ever, and /dev/zero never end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path | bytes) -> BinaryIO:
    """Open to read, links followed. OSError also if it is no regular file, with a strerror that says so."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(descriptor, "rb")  # noqa: SIM115  # the caller's
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The contents; OSError as `open_regular` raises it, and if they are more than `most_bytes`."""
    with open_regular(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes", str(path))
    return data
