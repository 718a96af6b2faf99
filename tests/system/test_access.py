"""Who may talk to a service: keys on both ends, with real processes and sockets."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.auth

from common.client.client import LoaderClient
from common.errors import LoaderRefused, LoaderTimeout, UsageError
from common.spec import StreamSpec
from common.wire import keys
from loader.service.access import AllowList
from tests.support.processes import LoaderProcess, wait_for

SPEC = StreamSpec(split="val", view="full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of a service and the clients `client` and `bob`."""
    folder = tmp_path_factory.mktemp("access") / "keys"
    keys.make(folder)
    keys.make(folder, "bob")
    return folder


@pytest.fixture(scope="module")
def guarded(packed: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    """Reached from everywhere, with keys."""
    here = tmp_path_factory.mktemp("loader")
    with LoaderProcess(packed, here, 1, "tcp://0.0.0.0:*", "--keys", str(folder)) as guarded:
        guarded.endpoint = f"tcp://127.0.0.1:{guarded.endpoint.rpartition(':')[2]}"
        yield guarded


def read(endpoint: str | list[str], key_folder: Path | None) -> bytes:
    with LoaderClient(endpoint, keys=key_folder, timeout_s=20) as loader:
        return b"".join(batch.images.tobytes() for batch in loader.stream(SPEC, 16).batches([0]))


def said(service: LoaderProcess, pattern: str) -> None:
    wait_for(f"the log to say {pattern}", lambda: re.search(pattern, service.log.read_text()))


def refused_until_said(service: LoaderProcess, key_folder: Path | None, error: str, line: str) -> None:
    """The client is refused each time; the log says who, if not of a connection that was gone at once, of the next."""

    def refused() -> bool:
        with pytest.raises(LoaderRefused, match=error):
            read(service.endpoint, key_folder)
        wait_for("a refusal", lambda: "was refused" in service.log.read_text())
        return re.search(rf"127\.0\.0\.1:\d+ was refused: {line}", service.log.read_text()) is not None

    wait_for(f"the log to say {line}", refused)


def test_clients_that_are_named_get_what_they_get_without_keys(
    folder: Path, service: LoaderProcess, guarded: LoaderProcess
) -> None:
    pixels = read(service.endpoint, None)
    assert read(guarded.endpoint, folder) == pixels
    assert read(guarded.endpoint, folder / "bob") == pixels
    assert "encrypted" in guarded.log.read_text()


def arenas(pid: int) -> int:
    """Arenas that glibc's malloc has given threads: 64 MiB of addresses each, of which a part can be used."""
    ranges = [line.split()[:2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return sum(may == "---p" and int(place.split("-")[1], 16) % (64 << 20) == 0 for place, may in ranges)


def test_a_service_with_keys_encrypts_in_memory_that_all_its_threads_share(
    folder: Path, service: LoaderProcess, guarded: LoaderProcess
) -> None:
    read(service.endpoint, None)
    read(guarded.endpoint, folder)
    if arenas(service.pid) == 0:
        pytest.skip("this C library has no arenas")
    assert arenas(guarded.pid) == 0


def test_a_client_that_nobody_named_is_refused_and_both_sides_say_so(
    tmp_path: Path, folder: Path, guarded: LoaderProcess
) -> None:
    keys.make(tmp_path / "own")
    (tmp_path / "own" / "server.key").write_bytes((folder / "server.key").read_bytes())
    with pytest.raises(LoaderRefused, match=rf"{guarded.endpoint} refuses: .*public key.*clients/.*--keys"):
        read(guarded.endpoint, tmp_path / "own")
    public = keys.public_key(tmp_path / "own" / "clients" / "client.key").decode()
    said(guarded, rf"127\.0\.0\.1 was refused: its public key {re.escape(public)} is not")


def test_a_client_without_keys_is_refused_and_both_sides_say_so(guarded: LoaderProcess) -> None:
    refused_until_said(guarded, None, r"only clients with keys \(--keys\)", "it has no keys")


def test_a_client_of_another_service_is_refused_and_both_sides_say_so(tmp_path: Path, guarded: LoaderProcess) -> None:
    keys.make(tmp_path / "other")
    error, line = r"other than our server\.key \(--keys\)", r"it came with another service's server\.key"
    refused_until_said(guarded, tmp_path / "other", error, line)


def test_keys_at_a_service_without_are_refused_and_both_sides_say_so(folder: Path, service: LoaderProcess) -> None:
    error, line = r"has no keys, .*\(--keys\)", r"it has keys, and this service none \(--keys\)"
    refused_until_said(service, folder, error, line)


def test_a_refusal_is_noticed_at_once_not_at_the_time_limit(guarded: LoaderProcess) -> None:
    """A service that is silent would hold the client for an hour; the test's own limit is 10 minutes."""
    with LoaderClient(guarded.endpoint, timeout_s=3600) as loader, pytest.raises(LoaderRefused):
        loader.stream(SPEC, 16)


def test_one_service_that_refuses_leaves_the_stream_to_the_others(
    folder: Path, service: LoaderProcess, guarded: LoaderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with LoaderClient([service.endpoint, guarded.endpoint], keys=folder) as loader:
        batches = loader.stream(SPEC, 16).batches(range(10**6))
        refused = f"{service.endpoint} refuses: it "
        wait_for("the refusal and some batches", lambda: next(batches).epoch > 5 and refused in caplog.text)


def test_a_service_that_refuses_is_named_where_no_other_answers(guarded: LoaderProcess) -> None:
    with LoaderClient([guarded.endpoint, "tcp://127.0.0.1:9"], timeout_s=0.5) as loader:
        times_out_until_it_says(loader, rf"{guarded.endpoint} \(which refuses: .*--keys\)\), tcp://127")


def times_out_until_it_says(loader: LoaderClient, pattern: str) -> None:
    """A refusal may take longer to come than the limit, on a slow machine."""

    def says() -> bool:
        with pytest.raises(LoaderTimeout) as raised:
            loader.stream(SPEC, 16)
        return re.search(pattern, str(raised.value)) is not None

    wait_for(pattern, says)


def test_the_folder_of_clients_is_read_again_when_it_changes(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.make(folder)
    with LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", "--keys", str(folder)) as service:
        pixels = read(service.endpoint, folder)
        keys.make(folder, "late")
        (folder / "clients" / "half-copied.key").write_text("public")
        assert read(service.endpoint, folder / "late") == pixels
        (folder / "clients" / "late.key").unlink()
        with pytest.raises(LoaderRefused, match="public key"):
            read(service.endpoint, folder / "late")
        assert read(service.endpoint, folder) == pixels
        assert "left out" in service.log.read_text()


def test_a_client_whose_key_is_taken_away_is_served_no_more(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.make(folder)
    keys.make(folder, "bob")
    with LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", "--keys", str(folder)) as service:
        with LoaderClient(service.endpoint, keys=folder / "bob", timeout_s=20) as bob:
            batches = bob.stream(SPEC, 4).batches(range(10**6))
            next(batches)
            (folder / "clients" / "bob.key").unlink()
            with pytest.raises(LoaderRefused, match="public key"):
                wait_for("bob to be refused", lambda: next(batches) is None)
        said(service, r"127\.0\.0\.1 was refused: its public key \S+ was taken away")
        assert read(service.endpoint, folder)


def test_a_client_that_was_refused_is_let_in_once_it_is_named(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.make(folder)
    keys.make(folder, "bob")
    named, hidden = folder / "clients" / "bob.key", folder / "bob.key.hidden"
    named.rename(hidden)
    here = tmp_path / "open"
    here.mkdir()
    with (
        LoaderProcess(packed, tmp_path, 1, "tcp://127.0.0.1:*", "--keys", str(folder)) as service,
        LoaderClient([service.endpoint, "tcp://127.0.0.1:9"], keys=folder / "bob", timeout_s=0.5) as bob,
    ):
        times_out_until_it_says(bob, "which refuses")
        hidden.rename(named)
        bob.timeout_s = 60.0
        assert bob.stream(SPEC, 16).info.records == 40


def test_missing_keys_are_one_line_that_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"client\.key_secret: not found; alexnet-loader keys makes it"):
        LoaderClient("tcp://127.0.0.1:9", keys=tmp_path)


def test_a_key_put_in_anothers_place_with_its_time_kept_counts_at_once(tmp_path: Path) -> None:
    """As `cp -p`, rsync and tar do it; keys are all of one size."""
    clients = tmp_path / "clients"
    clients.mkdir()
    for name in ("bob", "eve"):
        zmq.auth.create_certificates(tmp_path, name)
        os.utime(tmp_path / f"{name}.key", ns=(1, 1))
    bob, eve = (zmq.auth.load_certificate(tmp_path / f"{name}.key")[0] for name in ("bob", "eve"))
    allowed = AllowList(clients)
    for file, known in (("eve.key", eve), ("bob.key", bob)):
        shutil.copy2(tmp_path / file, clients / "client.key")
        allowed.read_if_changed()
        assert [key for key in (bob, eve) if allowed.name_of(key) is not None] == [known]
