"""Workers that cannot be started: those that live serve, and the others come when the machine has room again."""

import os
import resource
import signal
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from tests.support.processes import LoaderProcess, alive, wait_for
from tests.support.reader import SPEC, fingerprint


def lowest_free_descriptor(pid: int) -> int:
    """The limit of RLIMIT_NOFILE that leaves no number free; files open for a moment do not count."""
    samples = ({int(name) for name in os.listdir(f"/proc/{pid}/fd")} for _ in range(20))
    return min(next(number for number in range(len(used) + 1) if number not in used) for used in samples)


def living(service: LoaderProcess) -> list[int]:
    return [pid for pid in service.workers if alive(pid)]


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ,
    reason="under load files open for a moment leave descriptors free: run it alone",
)
def test_a_service_without_descriptors_serves_with_the_workers_that_live_and_replaces_the_others_later(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with (
        LoaderProcess(packed, tmp_path, 2, "tcp://127.0.0.1:*", "--log-level", "debug") as service,
        LoaderClient(service.endpoint) as loader,
    ):
        batches = loader.stream(SPEC, 16).batches(range(2))
        seen = fingerprint([next(batches)])
        soft, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (lowest_free_descriptor(service.pid), hard))
        first, second = service.workers
        os.kill(first, signal.SIGKILL)
        wait_for("the log to tell", lambda: "could not be started: Too many open files" in service.log.read_text())
        seen += fingerprint(next(batches) for _ in range(10))
        assert living(service) == [second]
        os.kill(second, signal.SIGKILL)
        wait_for("many tries in vain", lambda: service.log.read_text().count("could not be started") > 5)
        assert living(service) == []
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert seen + fingerprint(batches) == undisturbed
        wait_for("both places to be taken", lambda: len(living(service)) == 2)
