"""The lock of a folder that a dataset is packed into: one alexnet-pack at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import DatasetError, UsageError


@contextlib.contextmanager
def only_one_pack(data: Path) -> Iterator[int]:
    """Lock the folder, which the kernel unlocks however this process ends; yield its descriptor."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{data} is no folder to write to: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"another alexnet-pack is writing to {data}") from None
        yield descriptor
    finally:
        os.close(descriptor)
