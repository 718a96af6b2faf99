"""Refusals by a service and its client, at the start and later, with real processes and sockets."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from common.client.client import LoaderClient
from common.errors import LoaderRefused, LoaderTimeout, NoSuchSplit
from common.spec import StreamSpec
from common.wire import messages
from loader.service.resources import MOST_STREAMS
from loader.service.sessions import MOST_STREAMS_OF_A_CLIENT
from tests.support.processes import LoaderProcess, wait_for
from tests.support.reader import SPEC, read


def run_loader(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loader.cli.serve_command", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_said_and_ends_the_second_loader(packed: Path, service: LoaderProcess) -> None:
    second = run_loader("--data", str(packed), "--bind", service.endpoint)
    assert second.returncode == 2
    assert second.stderr.endswith(f"error: cannot listen on {service.endpoint}: Address already in use (--bind)\n")
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.parametrize("bind", ["nonsense", "tcp://127.0.0.1:99999"])
def test_an_endpoint_that_is_none_is_one_line_and_exit_code_2(packed: Path, bind: str) -> None:
    ended = run_loader("--data", str(packed), "--bind", bind)
    assert ended.returncode == 2
    assert bind in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_other_hosts_are_served_when_that_was_asked_for_and_the_log_says_so(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 1, "tcp://0.0.0.0:*", "--insecure") as service:
        assert "by anyone" in service.log.read_text()
        assert read(f"tcp://127.0.0.1:{service.endpoint.rpartition(':')[2]}", epochs=1)


def test_a_split_that_is_not_there_is_refused_by_name(packed: Path, tmp_path: Path) -> None:
    only_train = tmp_path / "only_train"
    only_train.mkdir()
    (only_train / "train.lmdb").symlink_to(packed / "train.lmdb")
    with LoaderProcess(only_train, tmp_path, 1) as service, LoaderClient(service.endpoint) as loader:
        with pytest.raises(NoSuchSplit, match="no val split"):
            loader.stream(StreamSpec(split="val"), 8)
        assert loader.stream(SPEC, 8).info.records == 150


def test_a_batch_too_large_for_a_streams_memory_is_refused_naming_the_option(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", "--stream-mib", "1") as service:
        with LoaderClient(service.endpoint) as loader, pytest.raises(LoaderRefused, match="--stream-mib"):
            loader.stream(StreamSpec(crop=256), 128)


def test_more_streams_than_a_client_or_a_service_may_have_are_refused_by_name(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 1) as service, contextlib.ExitStack() as stack:

        def client() -> LoaderClient:
            return stack.enter_context(LoaderClient(service.endpoint))

        clients = [client() for _ in range(MOST_STREAMS // MOST_STREAMS_OF_A_CLIENT)]
        for loader in clients:
            for _ in range(MOST_STREAMS_OF_A_CLIENT):
                loader.stream(SPEC, 1)
        with pytest.raises(LoaderRefused, match=f"{MOST_STREAMS} streams are open"):
            client().stream(SPEC, 1)
        clients[0].close()
        with pytest.raises(LoaderRefused, match=f"one client may have {MOST_STREAMS_OF_A_CLIENT} streams"):
            clients[1].stream(SPEC, 1)
        assert client().stream(SPEC, 1).info.records == 150


def test_streams_that_would_take_too_much_memory_together_are_refused_naming_the_option(
    packed: Path, tmp_path: Path
) -> None:
    limit = ["--memory-mib", "30"]
    with LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", *limit) as service:
        with LoaderClient(service.endpoint) as first, LoaderClient(service.endpoint) as second:
            large = StreamSpec(crop=256)
            stream = first.stream(large, 16)  # some 19 MiB
            with pytest.raises(LoaderRefused, match=r"of 30 MiB for all streams \d+ are taken .*--memory-mib"):
                second.stream(large, 16)
            stream.close()
            wait_for("its stream to be closed", lambda: re.search(r"stream \w+ closed", service.log.read_text()))
            assert second.stream(large, 16).info.records == 150


def test_a_stream_has_fewer_batches_in_flight_if_all_memory_is_little(packed: Path, tmp_path: Path) -> None:
    large = StreamSpec(crop=256)
    with LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", "--memory-mib", "10") as service:
        with LoaderClient(service.endpoint) as loader:
            assert sum(len(batch) for batch in loader.stream(large, 16).batches([0])) == 150
            with pytest.raises(LoaderRefused, match=r"100 need \d+ MiB; a stream may take 10 MiB .*--memory-mib"):
                loader.stream(large, 100)
        assert "batches of 16, credit 1" in service.log.read_text()


def test_no_service_at_all_is_a_timeout_that_names_the_endpoint() -> None:
    with LoaderClient("tcp://127.0.0.1:9", timeout_s=0.2) as loader:
        with pytest.raises(LoaderTimeout, match=r"tcp://127\.0\.0\.1:9.*--loader-timeout"):
            loader.stream(SPEC, 8)


def test_an_endpoint_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(LoaderRefused, match="nonsense"):
        LoaderClient("nonsense")


def test_nonsense_on_the_port_is_ignored_and_another_version_is_told_both(service: LoaderProcess) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(service.endpoint)
        for frames in (
            [b""],
            [b"\xff" * 50],
            [messages.encode(messages.Ping()), b"more"],
            [messages.encode(messages.Bye(b"x" * 16))],
        ):
            stranger.send_multipart(frames)
        stranger.send(messages.encode(messages.Ticket(0, b"x" * 16, 0, 0, 1, False, 0, b"")))
        fault = messages.decode(stranger.recv())
        assert isinstance(fault, messages.Fault)
        assert fault.code == messages.UNKNOWN_STREAM
        stranger.send(b"\x92\x63\xa4PING")  # [99, "PING"]
        fault = messages.decode(stranger.recv())
        assert isinstance(fault, messages.Fault)
        assert "version 99" in fault.reason
        assert f"version {messages.VERSION}" in fault.reason
        assert read(service.endpoint, epochs=1)
