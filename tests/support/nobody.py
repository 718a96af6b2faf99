"""The process as another user, without root's rights. Needs root."""

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
    """Be nobody within the block; yields a folder of nobody's with

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
