"""Several services of one command: each on a port and on cores of its own, with one ready file and one Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.client.client import LoaderClient
from common.errors import UsageError
from loader.cli.ready_file import ReadyFile, named
from loader.cli.serve_command import main
from loader.cli.serving import ServeOptions, share
from loader.service.exposure import binds_of
from tests.support.paths import ROOT
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess, alive, children, wait_for
from tests.support.reader import SPEC, fingerprint
from tests.support.scrapes import scrape

CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def command(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    """Two services with three workers, watched."""
    more = "--services", "2", "--metrics", "127.0.0.1:*"
    with LoaderProcess(packed, tmp_path_factory.mktemp("two"), 3, ANY_PORT, *more, restarts=True) as command:
        yield command


def services(command: LoaderProcess) -> list[int]:
    return wait_for("both services", lambda: two if len(two := children(command.process.pid)) == 2 else None)


def test_a_stream_is_read_from_both_though_one_dies_and_the_figures_tell_of_each(
    command: LoaderProcess, undisturbed: list[str]
) -> None:
    (url,) = command.figures_at
    with LoaderClient(command.endpoints) as loader:
        stream = loader.stream(SPEC, 16)
        wait_for("both to be open", lambda: stream.names([0]) and stream.loaders.hosts == 2)
        assert (stream.loaders.workers, stream.loaders.cores) == (3, max(2, len(CORES)))
        batches = stream.batches(range(2))
        seen = fingerprint(islice(batches, 6))
        os.kill(services(command)[1], signal.SIGKILL)
        seen += fingerprint(batches)
    assert seen == undisturbed
    wait_for("the second one to be started again", lambda: scrape(url).total("service_starts_total", service="1") == 2)
    assert (
        f" service 1 at {command.endpoints[1]} was ended by SIGKILL; it is started again in " in command.log.read_text()
    )
    assert command.ready_file.read_text().split() == [*command.endpoints, url]
    now = scrape(url)
    assert now.total("service_starts_total", service="0") == 1
    assert all(now.total("images_total", split="train", service=each) > 0 for each in ("0", "1"))
    assert now.total("images_total") == sum(now.total("images_total", service=each) for each in ("0", "1")) >= 300
    assert now.total("workers_wanted") == 3


def test_each_service_has_its_own_cores(command: LoaderProcess) -> None:
    first, second = (os.sched_getaffinity(pid) for pid in services(command))
    assert first | second == set(CORES)
    assert len(first & second) == (len(CORES) < 2)


def test_one_signal_ends_all_of_it(command: LoaderProcess) -> None:
    everyone = [command.process.pid, *services(command)]
    everyone += [worker for service in everyone[1:] for worker in children(service)]
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(timeout=60) == 0
    wait_for("all to end", lambda: not any(map(alive, everyone)))
    assert not command.ready_file.exists()


def test_a_service_that_ends_for_good_ends_all_and_the_log_says_which(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 2, ANY_PORT, "--services", "2", *KEEPS_NOTHING, restarts=True) as command:
        os.kill(services(command)[1], signal.SIGTERM)
        assert command.process.wait(timeout=60) == 0
        told = f" service 1 at {command.endpoints[1]} ended with exit code 0; all others end with it"
        assert told in command.log.read_text()
        assert not command.ready_file.exists()


@pytest.mark.parametrize(
    ("way", "last"),
    [
        (
            "serves,killed",
            "lives: error: {} died 30 times within 600 s and is given up; the last time it was ended by SIGKILL",
        ),
        ("serves,fails", "lives: error: no worker can be started"),
    ],
)
def test_one_service_that_is_given_up_ends_all_with_its_exit_code(tmp_path: Path, way: str, last: str) -> None:
    arguments = [str(tmp_path / "lives"), "0.001", "600", "serves,waits", "/", way]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.short_lives", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    second = "service 1 at tcp://127.0.0.1:4712"
    assert done.returncode == 1
    assert last.format(second) in done.stderr.splitlines()
    if way == "serves,killed":
        assert done.stderr.count(f" {second} was ended by SIGKILL; it is started again in 0.0 s") == 29
    else:
        assert f" {second} ended with exit code 1; all others end with it\n" in done.stderr
    assert (tmp_path / "lives").read_text().count("tcp") == 1


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_that_is_taken_ends_all_of_it_with_one_line(packed: Path, tmp_path: Path, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bind = f"tcp://127.0.0.1:{port - number}"
        with pytest.raises(AssertionError) as ended:
            LoaderProcess(packed, tmp_path, 2, bind, "--services", "2", *KEEPS_NOTHING, restarts=True)
    told = [line for line in str(ended.value).splitlines() if "error" in line]
    assert len(told) == 1
    assert f"cannot listen on tcp://127.0.0.1:{port}: Address already in use (--bind)" in told[0]
    assert not list(tmp_path.glob("ready-*[0-9]"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--workers", "2", "--services", "3"), "2 workers are too few for 3 services (--workers, --services)"),
        (("--bind", "ipc:///tmp/x", "--services", "2"), "ipc:///tmp/x is one endpoint; several services need tcp://"),
        (
            ("--bind", "tcp://127.0.0.1:65535", "--services", "2"),
            "tcp://127.0.0.1:65535 and the next 1 ports go beyond",
        ),
        (("--services", "2", "--no-restart"), "--no-restart serves in this one process"),
        (("--services", "0"), "--services"),
        (("--services", "65"), "--services"),
        (("--services", "2", "--ready-file", "/none/x"), "/none/x cannot be written"),
    ],
)
def test_services_that_could_not_serve_are_refused_in_one_line(packed: Path, asked: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(main, ["--data", str(packed), *asked])
    assert done.exit_code == 2, done.output
    assert told in done.output.splitlines()[-1]


def test_workers_ports_and_cores_are_shared_out(tmp_path: Path) -> None:
    (file := tmp_path / "workers").write_text("7")
    options = ServeOptions(data=tmp_path, workers_file=file, stream_bytes=1, memory_bytes=1, services=3)
    assert [options.of(number).worker_count() for number in range(3)] == [2, 2, 3]
    file.write_text("2")
    with pytest.raises(UsageError, match="2 workers are too few for 3 services"):
        options.of(1).worker_count()
    assert [share([0, 1], number, 3) for number in range(3)] == [[0], [1], [0]]
    assert binds_of("tcp://[::1]:5555", 3) == [f"tcp://[::1]:{port}" for port in (5555, 5556, 5557)]
    assert binds_of("tcp://a:*", 2) == ["tcp://a:*"] * 2


def test_a_ready_file_is_written_when_the_last_is_ready_and_names_this_host(tmp_path: Path) -> None:
    ready = ReadyFile(tmp_path / "ready", 2)
    ready.note(1, "tcp://127.0.0.1:6", None)
    assert not list(tmp_path.iterdir())
    ready.note(0, "tcp://0.0.0.0:5", "http://[::]:9/metrics")
    lines = (tmp_path / "ready").read_text().splitlines()
    assert lines == [named("tcp://0.0.0.0:5"), "tcp://127.0.0.1:6", named("http://[::]:9/metrics")]
    ready.note(1, "tcp://a:6", None)
    assert (tmp_path / "ready").read_text().splitlines()[1] == named("tcp://a:6")
    assert lines[0] in (f"tcp://{socket.gethostname()}:5", "tcp://0.0.0.0:5")
    assert named("ipc:///run/x") == "ipc:///run/x"
    assert named("tcp://[::1]:5") == "tcp://[::1]:5"


def test_a_ready_file_is_there_only_while_all_is_served(tmp_path: Path) -> None:
    (left := tmp_path / "left").write_text("tcp://127.0.0.1:4\n")
    (link := tmp_path / "ready").symlink_to(left)
    with ReadyFile(link, 1) as ready:
        assert not left.exists()
        ready.note(0, "tcp://127.0.0.1:5", None)
        assert left.read_text() == "tcp://127.0.0.1:5\n"
    assert link.is_symlink()
    assert not left.exists()


def test_a_ready_file_that_can_no_longer_be_written_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ReadyFile(tmp_path / "gone" / "ready", 1) as ready:
        ready.note(0, "tcp://127.0.0.1:5", None)
    assert caplog.messages == [f"{tmp_path}/gone/ready cannot be written: No such file or directory (--ready-file)"]
