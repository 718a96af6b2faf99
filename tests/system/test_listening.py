"""Endpoints of a service: IPv6, a socket file for its owner alone, and how many files that takes."""

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.client.client import LoaderClient
from common.errors import UsageError
from loader.cli.serve_command import main
from loader.service.exposure import refuse_open_bind
from loader.service.resources import MOST_STREAMS, share_files
from tests.support.processes import LoaderProcess, wait_for
from tests.support.reader import SPEC, fingerprint, read

_NOBODY = 65534


def refused(data: Path, *options: str) -> str:
    """The line with which a loader ends that may not start."""
    done = CliRunner().invoke(main, ["--data", str(data), "--workers", "1", "--no-restart", *options])
    assert done.exit_code == 2, done.output
    return done.output


def read_one(endpoint: str) -> list[str]:
    with LoaderClient(endpoint, timeout_s=30) as loader:
        return fingerprint(loader.stream(SPEC, 16).batches([0]))


def test_ipv6_is_served_and_a_flood_over_it_is_seen_by_the_kernel_too(packed: Path, tmp_path: Path) -> None:
    from tests.support.storm import shake_hands

    with LoaderProcess(packed, tmp_path, 1, "tcp://[::1]:*") as service:
        assert service.endpoint.startswith("tcp://[::1]:")
        first = read_one(service.endpoint)
        with shake_hands(service.endpoint, timeout_s=30) as flooder:
            with pytest.raises(ConnectionError):
                flooder.sendall(b"\x01\x00" * 100_000_000)
        wait_for("the log to name it", lambda: "[::1]:" in service.log.read_text().partition("was refused")[0][-20:])
        assert read_one(service.endpoint) == first
        assert "Address already in use" in refused(packed, "--bind", service.endpoint)


@pytest.mark.parametrize(
    "bind", ["tcp://127.0.0.1:5", "tcp://[::1]:*", "tcp://[::ffff:127.0.0.1]:5", "tcp://localhost:5", "ipc:///x"]
)
def test_this_host_alone_needs_no_keys(bind: str) -> None:
    refuse_open_bind(bind, None, insecure=False)


@pytest.mark.parametrize(
    "bind", ["tcp://[::]:5", "tcp://*:5", "tcp://[::ffff:10.0.0.1]:5", "tcp://127.example.com:5", "ws://127.0.0.1:5"]
)
def test_what_others_can_reach_needs_keys(bind: str) -> None:
    with pytest.raises(UsageError, match="--bind|--keys"):
        refuse_open_bind(bind, None, insecure=False)


@pytest.fixture
def socket_file(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "loader.sock"


def test_a_socket_file_is_for_its_owner_alone_and_not_taken_while_it_is_served(
    packed: Path, tmp_path: Path, socket_file: Path
) -> None:
    before = os.umask(0)
    try:
        with LoaderProcess(packed, tmp_path, 1, f"ipc://{socket_file}") as service:
            assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
            first = read_one(service.endpoint)
            assert "Address already in use" in refused(packed, "--bind", f"ipc://{socket_file}")
            service.signal(signal.SIGSTOP)  # silent, but living
            assert "Address already in use" in refused(packed, "--bind", f"ipc://{socket_file}")
            service.signal(signal.SIGCONT)
            assert read_one(service.endpoint) == first
    finally:
        os.umask(before)
    assert socket_file.exists(), "it was killed"
    with LoaderProcess(packed, tmp_path, 1, f"ipc://{socket_file}") as service:
        assert read_one(service.endpoint) == first


def test_a_file_of_another_kind_is_never_replaced(packed: Path, socket_file: Path) -> None:
    socket_file.write_text("my thesis")
    assert "a file of another kind" in refused(packed, "--bind", f"ipc://{socket_file}")
    assert socket_file.read_text() == "my thesis"
    assert "No such file" in refused(packed, "--bind", f"ipc://{socket_file}.d/none/loader.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_open_the_socket_file(packed: Path, tmp_path: Path, socket_file: Path) -> None:
    for folder in [tmp_path, *tmp_path.parents[:-2]]:
        folder.chmod(0o755)
    with LoaderProcess(packed, tmp_path, 1, f"ipc://{socket_file}"):
        child = os.fork()
        if child == 0:
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            with socket.socket(socket.AF_UNIX) as stranger:
                os._exit(stranger.connect_ex(os.fspath(socket_file)) & 0x7F)
        assert os.strerror(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) == "Permission denied"


def test_few_open_files_are_shared_and_too_few_refused(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 1, prefix=["prlimit", "--nofile=180:180"]) as service:
        assert len(read(service.endpoint)) > 0
    streams, connections = share_files(512, 2)
    assert 0 < streams < MOST_STREAMS
    assert connections > streams
    with pytest.raises(UsageError, match=r"may have 100 open files and needs 162 with 1 workers \(ulimit -n"):
        share_files(100, 1)
