"""Packing in this process, and alexnet-pack as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from loader import lmdb_file
from loader.dataset import META
from loader.name_blocks import NAMES
from loader.packing import discover
from loader.packing.dataset_writer import Writer
from loader.packing.pack import PackOptions, Summary, pack

COMMAND = [sys.executable, "-c", "from loader.cli.pack_command import main; main()"]


def pack_folder(tree: Path, data: Path, **options: object) -> list[Summary]:
    return pack(discover.sources(tree), data, PackOptions(**{"jobs": 2, **options}))  # type: ignore[arg-type]


def forget_names(path: Path) -> None:
    """Make of a split, finished or not, what a program that kept no names would have packed."""
    with Writer(path) as writer:
        with writer._env.begin() as transaction, transaction.cursor() as cursor:
            keys = [key for key in cursor.iternext(keys=True, values=False) if key.startswith(NAMES)]
        assert keys
        for key in keys:
            lmdb_file.write(writer._env, path, [], delete=key)
        if writer.meta is not None:
            writer._write([(META, replace(writer.meta, named=0).to_bytes())])
        else:
            assert writer.progress is not None
            writer.commit(0, [], [], replace(writer.progress, named=0))


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
