"""Memory of the decoded images that a service keeps."""

import os
from contextlib import suppress
from pathlib import Path


def kept_bytes(pid: int) -> int:
    """Shared memory that holds the decoded images of train; of val none were read."""
    found = {}  # by file: a mapping holds a descriptor of its own
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if "alexnet-kept" in os.readlink(fd):
                found[fd.stat().st_dev, fd.stat().st_ino] = fd.stat().st_blocks * 512
    return max(found.values())
