"""Workers that cannot be started: those that live serve, and the others come when the machine has room again."""

import os
import resource
import signal
from pathlib import Path

from common.client.client import LoaderClient
from tests.support.processes import LoaderProcess, alive, command_line, wait_for
from tests.support.reader import SPEC, fingerprint
from tests.support.scrapes import scrape


def lowest_free_descriptor(pid: int) -> int:
    """The limit of RLIMIT_NOFILE that leaves no number free; too high while a file is open for a moment."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(used) + 1) if number not in used)


def living(service: LoaderProcess) -> list[int]:
    return [pid for pid in service.workers if alive(pid) and "loader.workers.worker" in command_line(pid)]


def told(service: LoaderProcess) -> str:
    log = service.log.read_text()
    assert service.process.poll() is None, log
    return log


def last_turn(service: LoaderProcess) -> float:
    assert told(service)
    return scrape(service.figures_at[0]).total("last_turn_time_seconds")


def take_descriptors(service: LoaderProcess) -> None:
    """Lower the limit until the service itself finds that no descriptor is free."""
    limit, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)

    def finds_none() -> bool:
        nonlocal limit
        limit = min(limit, lowest_free_descriptor(service.pid))
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (limit, hard))
        return "free memory is unknown: Too many open files" in told(service)

    wait_for("the service to lack a descriptor", finds_none)
    looked = last_turn(service)
    wait_for("its figures to be looked at so too", lambda: last_turn(service) > looked)


def test_a_service_without_descriptors_serves_with_the_workers_that_live_and_replaces_the_others_later(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    more = "--log-level", "debug", "--metrics", "127.0.0.1:*"
    with (
        LoaderProcess(packed, tmp_path, 2, "tcp://127.0.0.1:*", *more) as service,
        LoaderClient(service.endpoint) as loader,
    ):
        batches = loader.stream(SPEC, 16).batches(range(2))
        seen = fingerprint([next(batches)])
        first, second = living(service)
        limits = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        take_descriptors(service)
        os.kill(first, signal.SIGKILL)
        wait_for("the log to tell", lambda: "could not be started: Too many open files" in told(service))
        seen += fingerprint(next(batches) for _ in range(10))
        assert living(service) == [second]
        os.kill(second, signal.SIGKILL)
        wait_for("a try in vain", lambda: "with 0 of 2 meanwhile" in told(service))
        assert living(service) == []
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limits)
        assert seen + fingerprint(batches) == undisturbed
        wait_for("both places to be taken", lambda: len(living(service)) == 2)
