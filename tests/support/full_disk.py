"""A small file system to fill and empty, for tests of full disks. Needs the right to mount."""

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType

import pytest


class FullDisk:
    """A tmpfs at `folder` within a `with` block; skips the test if mounting is not allowed."""

    def __init__(self, folder: Path, kib: int) -> None:
        self.folder, self._kib = folder, kib
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        self._ballast.unlink()

    def __enter__(self) -> "FullDisk":
        self.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._kib}k", "tmpfs", str(self.folder)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("mounting a file system is not allowed here")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def full_device(folder: Path) -> Path:
    """A device like /dev/full; skips the test if none can be made."""
    device = folder / "full"
    try:
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 7))
        device.open("w").close()
    except OSError as error:
        pytest.skip(f"a device cannot be made here: {error.strerror}")
    return device
