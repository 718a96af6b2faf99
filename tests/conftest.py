"""Shared fixtures: small packed datasets of drawn images, made once; and a tiny run."""

import fcntl
import gc
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from tests.support.memory_loader import MemoryLoader
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess
from tests.support.reader import read

# A shell starts what runs in the background deaf to Ctrl-C, nohup deaf to SIGHUP, and so would be every command that a
# test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1  # torch's DataLoader keeps SIGCHLD


@pytest.fixture(autouse=True)
def signals_stay_as_they_are() -> Iterator[None]:
    """Fail a test that leaves a handler behind: the next one might be deaf to Ctrl-C."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    yield
    left = [(number, was) for number, was in zip(_SIGNALS, before, strict=True) if signal.getsignal(number) != was]
    for number, was in left:
        signal.signal(number, was)
    assert not left


# An option set by the environment would change what a test runs.
_COMMANDS = "PACK|LOADER|TRAINER|EVALUATE|PREDICT|EXPORT|REPORT"
for name in [name for name in os.environ if re.match(f"ALEXNET_({_COMMANDS})_", name)]:
    del os.environ[name]

# Processes that run side by side would spin for each other's cores between two operations of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test fails because a machine is slow. In CI the examples are the same each time, but for the modules that a process
# has imported, from which Hypothesis takes constants; elsewhere new ones are looked for.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset of drawn images: 150 train, 40 val."""
    return demo(tmp_path_factory, "packed", "--demo-train", "150", "--demo-val", "40", "--jobs", "2")


@pytest.fixture(scope="session")
def other_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset, with the same classes."""
    return demo(tmp_path_factory, "other", "--demo-train", "120", "--demo-val", "10", "--jobs", "1")


def demo(tmp_path_factory: pytest.TempPathFactory, name: str, *options: str) -> Path:
    """Pack a demo, once for all processes of a run side by side, which only read it."""
    from loader.cli.pack_command import main

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (data := base / name).exists():
            result = CliRunner().invoke(main, ["--demo", str(base / f"{name}.new"), *options])
            assert result.exit_code == 0, result.output
            (base / f"{name}.new").rename(data)
    return data


@pytest.fixture(scope="session")
def service(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    """A service of `packed` with two workers, for all tests that leave it as it is."""
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader")) as service:
        yield service


@pytest.fixture(scope="session")
def undisturbed(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests that `tests.support.reader.read` gives for `packed` from one undisturbed worker."""
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader"), 1, ANY_PORT, *KEEPS_NOTHING) as service:
        return read(service.endpoint)


@pytest.fixture
def loader() -> MemoryLoader:
    return MemoryLoader(train_records=18, val_records=6)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, loader: MemoryLoader, tmp_path: Path) -> Any:
    """A `tests.support.tiny_run.Train`: trains a tiny net on `loader`'s images."""
    from tests.support.tiny_run import train_with  # torch is slow to import, and most tests need none

    return train_with(monkeypatch, loader, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _few_descriptors_stay_open() -> Iterator[None]:
    """A module's descriptors go with it: those of all would pass 1,024, the limit of a process."""
    most = len(os.listdir("/proc/self/fd")) + 20
    yield
    if len(os.listdir("/proc/self/fd")) > most:
        gc.collect()  # slow, so not after each
    assert len(os.listdir("/proc/self/fd")) <= most
