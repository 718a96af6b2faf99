"""Files that appear whole or not at all, and what is said where a disk refuses them."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.errors import SaveError

PARTIAL = ".partial"


@contextlib.contextmanager
def put_in_place(path: Path, size: int) -> Iterator[Path]:
    """A `with` block that writes `size` bytes to the name it is given; then they are synced and named `path`.

    Raises SaveError if the disk will not take them; nothing is left of them then.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)  # the folder, so that the new name survives a power cut too
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SaveError(f"{path} cannot be written: {reason(error, path.parent, size)}") from None


def reason(error: OSError, folder: Path, size: int) -> str:
    """Why `size` bytes could not be written to a file in `folder`."""
    if error.errno != errno.ENOSPC:
        return error.strerror or str(error)
    return f"the disk is full: it takes {_mib(size)}, and {_mib(shutil.disk_usage(folder).free)} are free"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
