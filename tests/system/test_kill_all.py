"""kill -9 of loader and trainer at once, again and again: memory, files and the process table stay as they were."""

import contextlib
import itertools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from common.spec import StreamSpec
from tests.support.processes import LoaderProcess, wait_for
from tests.support.reader import ReaderProcess

KILLS = 4  # the last of them with a trainer, the others with a client that only reads
_MARK = "ALEXNET_TEST_MARK"


def marked(mark: str) -> set[int]:
    """Every process that inherited the mark, zombies left out."""
    found = set()
    for pid in everyone():
        try:
            if f"{_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes() and pid != os.getpid():
                found.add(pid)
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def slabs(pids: Iterable[int]) -> set[tuple[int, int]]:
    """Device and inode of the slabs that these processes hold. The kernel frees what nobody holds.

    Not of decoded images: their memory is a device of its own, whose number another loader's may have next.
    """
    found = set()
    for fd in itertools.chain.from_iterable(Path("/proc").glob(f"{pid}/fd/*") for pid in pids):
        with contextlib.suppress(OSError):  # gone meanwhile
            if os.readlink(fd).startswith("/memfd:alexnet-"):
                found.add((fd.stat().st_dev, fd.stat().st_ino))
    return found


def everyone() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def training(endpoint: str, run: Path) -> "subprocess.Popen[bytes]":
    """A trainer that has made its first step."""
    command = [sys.executable, "-m", "trainer.cli.train_command", "--cpu", "--recipe", "demo", "--loader", endpoint]
    log = ["--log-steps", "1", "--run", str(run)]
    trainer = subprocess.Popen([*command, *log], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    wait_for("a step", lambda: metrics.exists() and '"step"' in metrics.read_text())
    return trainer


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the processes would put temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_nothing_is_left_of_loaders_and_trainers_that_are_killed_together(
    packed: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(_MARK, mark)
    names, held = set(os.listdir("/dev/shm")), set[tuple[int, int]]()
    for number in range(1, KILLS + 1):
        with LoaderProcess(packed, tmp_path, restarts=True) as service:
            if number < KILLS:
                reader = ReaderProcess(service.endpoint, StreamSpec(crop=128), 64, epochs=10**6, transport="slab")
                reader.read_until(1)
                client = reader.process
            else:
                client = training(service.endpoint, tmp_path / "run")
            held |= slabs([service.pid, client.pid])
            assert marked(mark) >= {service.process.pid, service.pid, client.pid, *service.workers}
            client.kill()
            service.process.kill()
            client.communicate()
        wait_for("every process to be gone", lambda: not marked(mark))
    assert len(held) >= KILLS
    assert slabs(everyone()) & held == set()
    wait_for("/dev/shm to be as before", lambda: set(os.listdir("/dev/shm")) <= names)
    left = [path.name for path in temporary.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor_")] == []  # torch's cache, the same each time
