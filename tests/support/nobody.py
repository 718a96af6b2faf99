"""Being another user for a while, to whom not everything is allowed. Needs to be root."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[Path]:
    """Within, this process is nobody's; gives a folder of nobody's that holds what it may not read or write:

    read-only   a file of root's that may be read
    private     a folder of root's that may not be entered, and a folder `S` in it
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp())
    (folder / "read-only").touch(0o444)
    (folder / "private").mkdir(0o700)
    (folder / "private" / "S").mkdir()
    os.chown(folder, NOBODY, NOBODY)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        os.setegid(0)
        shutil.rmtree(folder)
