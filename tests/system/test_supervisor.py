"""A service that dies is started again at the same endpoint; whatever ends it on purpose ends the command too."""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from loader.service import supervisor
from loader.service.supervisor import pause_after
from tests.support.paths import ROOT
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess, alive, wait_for
from tests.support.reader import SPEC, fingerprint


@pytest.fixture
def command(packed: Path, tmp_path: Path) -> Iterator[LoaderProcess]:
    with LoaderProcess(packed, tmp_path, restarts=True) as process:
        yield process


def family(command: LoaderProcess) -> list[int]:
    return [command.process.pid, command.pid, *command.workers]


def served(command: LoaderProcess) -> int:
    """Number of log lines that announce the command's endpoint."""
    return command.log.read_text().count(f" on {command.endpoint}, ")


def test_a_service_that_dies_is_started_again_at_its_endpoint_and_the_stream_is_the_same(
    command: LoaderProcess, undisturbed: list[str]
) -> None:
    seen = []
    with LoaderClient(command.endpoint) as loader:
        batches = loader.stream(SPEC, 16).batches(range(2))
        for lives, number in enumerate((signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV), start=2):
            seen += fingerprint(islice(batches, 4))
            workers = command.workers
            command.signal(number)
            wait_for("the workers to go too", lambda workers=workers: not any(map(alive, workers)))  # type: ignore[misc]
            wait_for("another service", lambda lives=lives: served(command) == lives)  # type: ignore[misc]
        assert seen + fingerprint(batches) == undisturbed
    assert command.ready_file.read_text().strip() == command.endpoint
    ends = re.findall(r"the service was ended by (\w+); it is started again in 0\.\d s", command.log.read_text())
    assert ends == ["SIGKILL", "SIGABRT", "SIGSEGV"]


def test_the_process_that_restarts_it_holds_nothing_that_could_break(command: LoaderProcess) -> None:
    mapped = Path(f"/proc/{command.process.pid}/maps").read_text()
    assert re.search(r"libpython|/python3", mapped)
    assert not re.search("zmq|lmdb|numpy|msgpack|turbojpeg|xxhash", mapped)
    assert len(os.listdir(f"/proc/{command.process.pid}/task")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_all_of_it_cleanly(command: LoaderProcess, number: signal.Signals) -> None:
    everyone = family(command)
    command.process.send_signal(number)
    assert command.process.wait(timeout=60) == 0
    assert not any(map(alive, everyone))
    assert command.log.read_text().splitlines()[-1].endswith(" alexnet-loader: stopped")


def test_a_service_that_stops_cleanly_is_not_started_again(command: LoaderProcess) -> None:
    command.signal(signal.SIGTERM)
    assert command.process.wait(timeout=60) == 0


def test_nobody_outlives_the_process_that_restarts_it(command: LoaderProcess) -> None:
    everyone = family(command)
    command.process.kill()
    command.process.wait()
    wait_for("service and workers to end", lambda: not any(map(alive, everyone)))


def test_the_number_of_workers_changes_on_a_hangup_and_holds_for_the_next_service(packed: Path, tmp_path: Path) -> None:
    (file := tmp_path / "workers").write_text("1")
    more = ("tcp://127.0.0.1:*", "--workers-file", str(file))
    with LoaderProcess(packed, tmp_path, 9, *more, restarts=True) as command:
        file.write_text("3")
        command.process.send_signal(signal.SIGHUP)
        wait_for("three workers", lambda: len(command.workers) == 3)
        command.signal(signal.SIGKILL)
        wait_for("another service", lambda: command.log.read_text().count("with 3 workers") == 1)


def test_ctrl_c_at_a_terminal_which_reaches_both_processes_stops_it_once(packed: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    alexnet_loader = [str(Path(sys.executable).parent / "alexnet-loader"), "--data", str(packed), "--workers", "1"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(alexnet_loader[0], [*alexnet_loader, *KEEPS_NOTHING, "--bind", ANY_PORT, "--ready-file", str(ready)])
    told = b""
    try:
        wait_for("the loader", ready.exists)
        os.write(terminal, b"\x03")
        while chunk := read_terminal(terminal):
            told += chunk
    finally:
        if not told:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, told
    assert told.count(b"stopped") == 1
    assert len(told.splitlines()) == 5  # two digests, the codec, the endpoint, stopped


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has it open any more
        return b""


def living(tmp_path: Path, *ways: str, pause_s: float = 0.001, within_s: float = 60.0) -> "subprocess.Popen[str]":
    arguments = [str(tmp_path / "lives"), str(pause_s), str(within_s), *ways]
    command = [sys.executable, "-m", "tests.support.short_lives", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def lives(tmp_path: Path, *ways: str, within_s: float = 60.0) -> tuple[int, list[str], str]:
    """Exit code, the endpoint that each life was to serve at, and what was written."""
    process = living(tmp_path, *ways, within_s=within_s)
    _, told = process.communicate(timeout=60)
    return process.returncode, (tmp_path / "lives").read_text().splitlines(), told


def test_pauses_grow_with_the_deaths_of_a_minute_unless_the_service_lived_for_long() -> None:
    deaths = [deque([100.0] * often, supervisor.MOST_DEATHS) for often in range(1, 10)]
    pauses = [pause_after(recent, 0, "was ended", lived_s=0) for recent in deaths]
    assert (pauses[0], pauses[-1]) == (0.1, 1.0)
    assert pauses == sorted(pauses)
    assert {pause_after(recent, 0, "was ended", lived_s=2) for recent in deaths} == {0.1}
    assert pause_after(deque([*[10.0] * 9, 100.0]), 0, "was ended", lived_s=0) == 0.1


def test_a_service_that_the_machine_has_no_room_for_is_tried_again(tmp_path: Path) -> None:
    with living(tmp_path, *["serves,aborts"] * 8, "stops", pause_s=0.3) as process:
        assert process.stderr is not None
        assert "is started again" in process.stderr.readline()
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (0, hard))
        while "could not be started: Too many open files" not in process.stderr.readline():
            assert process.poll() is None
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert process.returncode == 0
    assert len((tmp_path / "lives").read_text().splitlines()) == 9


def test_a_stop_between_two_services_is_a_clean_one(tmp_path: Path) -> None:
    with living(tmp_path, "serves,aborts", pause_s=3600) as process:
        assert process.stderr is not None
        while "is started again in 3600.0 s" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        assert process.stderr.read().splitlines()[-1].endswith(" lives: stopped")
    assert process.returncode == 0


def test_what_is_wrong_at_the_start_is_not_tried_again(tmp_path: Path) -> None:
    code, endpoints, told = lives(tmp_path, "refuses")
    assert (code, len(endpoints), told) == (2, 1, "lives: error: a wrong option\n")


def test_an_error_that_nobody_foresaw_is_an_accident_once_it_has_served(tmp_path: Path) -> None:
    code, endpoints, told = lives(tmp_path, "serves,raises", "stops")
    assert (code, endpoints) == (0, ["tcp://127.0.0.1:*", "tcp://127.0.0.1:4711"])
    assert "RuntimeError: unexpected" in told
    assert "the service ended with exit code 1; it is started again in" in told


def test_an_error_that_a_user_must_act_on_ends_the_command_with_it(tmp_path: Path) -> None:
    code, endpoints, told = lives(tmp_path, "serves,fails")
    assert (code, len(endpoints), told) == (1, 1, "lives: error: no worker can be started\n")


def test_a_port_that_is_taken_for_a_moment_while_it_starts_again_is_waited_for(tmp_path: Path) -> None:
    code, endpoints, _ = lives(tmp_path, "serves,aborts", "refuses", "refuses", "stops")
    assert (code, len(endpoints)) == (0, 4)


@pytest.mark.parametrize(
    ("way", "within_s", "when"), [("serves,aborts", 60.0, "within 60 s"), ("aborts", 0.0, "before it could serve")]
)
def test_a_service_that_dies_too_often_is_given_up_in_one_line(
    tmp_path: Path, way: str, within_s: float, when: str
) -> None:
    code, endpoints, told = lives(tmp_path, way, within_s=within_s)
    assert (code, len(endpoints)) == (1, 30)
    last = f"lives: error: the service died 30 times {when} and is given up; the last time it was ended by SIGABRT"
    assert told.splitlines()[-1] == last
