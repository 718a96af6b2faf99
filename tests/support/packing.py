"""Packing in this process, and alexnet-pack as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.packing import discover
from loader.packing.pack import PackOptions, Summary, pack

COMMAND = [sys.executable, "-c", "from loader.cli.pack_command import main; main()"]


def pack_folder(tree: Path, data: Path, **options: object) -> list[Summary]:
    return pack(discover.sources(tree), data, PackOptions(**{"jobs": 2, **options}))  # type: ignore[arg-type]


@contextmanager
def packing(tree: Path, data: Path) -> Iterator[subprocess.Popen[str]]:
    """An alexnet-pack in a process group of its own, with small commits."""
    command = [*COMMAND, "--jobs", "2", "--commit", "32", str(tree), str(data)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
