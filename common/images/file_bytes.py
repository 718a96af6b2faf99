"""Image files, read whole."""

import errno
import os
import stat

from ..errors import BadImage

MAX_FILE_BYTES = 1 << 28  # no photo is larger; a disk image among them must not fill the memory


def read_file(path: bytes) -> bytes:
    """A file's bytes. Raises BadImage if it is none that can be an image, else OSError; never waits for a FIFO."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        lost_link = error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path)
        if lost_link or error.errno in (errno.EACCES, errno.EPERM):
            raise BadImage("a link to nothing" if lost_link else str(error.strerror)) from None
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device that is not there
            raise BadImage("not a regular file") from None
        raise
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImage(f"{status.st_size:,} bytes are more than {MAX_FILE_BYTES:,}")
        return file.readall() or b""
