"""kill -9 of loader and trainer at once, again and again: memory, files and the process table stay as they were."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.processes import LoaderProcess, wait_for

READER = """
import sys
from common.client import LoaderClient
from common.spec import StreamSpec
for batch in LoaderClient(sys.argv[1], transport="slab").stream(StreamSpec(crop=128), 64).batches(range(10**6)):
    print(batch.first, flush=True)
"""
KILLS = 20  # the last of them with a trainer, the others with a client that only reads
_MARK = "ALEXNET_TEST_MARK"


def marked(mark: str) -> set[int]:
    """Every process that inherited the mark, zombies left out."""
    found = set()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if f"{_MARK}={mark}".encode() in Path(f"/proc/{entry}/environ").read_bytes() and int(entry) != os.getpid():
                found.add(int(entry))
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def shared_memory_mib() -> float:
    """Of the whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:")) / 1024


def reading(endpoint: str) -> "subprocess.Popen[bytes]":
    """A client that has its first batch."""
    client = subprocess.Popen(
        [sys.executable, "-c", READER, endpoint], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert client.stdout is not None
    assert client.stdout.readline()
    return client


def training(endpoint: str, run: Path) -> "subprocess.Popen[bytes]":
    """A trainer that has made its first step."""
    command = [sys.executable, "-m", "trainer.command", "--cpu", "--recipe", "demo", "--loader", endpoint]
    log = ["--log-steps", "1", "--run", str(run)]
    trainer = subprocess.Popen([*command, *log], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    wait_for("a step", lambda: metrics.exists() and '"step"' in metrics.read_text())
    return trainer


def kill_together(service: LoaderProcess, client: "subprocess.Popen[bytes]") -> None:
    client.kill()
    service.signal(signal.SIGKILL)
    client.communicate()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes put temporary files, if they do."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_nothing_is_left_of_loaders_and_trainers_that_are_killed_together(
    packed: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(_MARK, mark)
    names, memory_mib = set(os.listdir("/dev/shm")), shared_memory_mib()
    for number in range(1, KILLS + 1):
        with LoaderProcess(packed, tmp_path) as service:
            client = reading(service.endpoint) if number < KILLS else training(service.endpoint, tmp_path / "run")
            assert marked(mark) >= {service.process.pid, client.pid, *service.workers}
            kill_together(service, client)
        wait_for("every process to be gone", lambda: not marked(mark))
    wait_for("the memory to be given back", lambda: shared_memory_mib() < memory_mib + 100)  # a slab has some 30 MiB
    wait_for("/dev/shm to be as before", lambda: set(os.listdir("/dev/shm")) <= names)
    assert list(temporary.iterdir()) == []
