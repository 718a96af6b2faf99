"""A dataset that is replaced, deleted or written over while it is served: what is delivered is what was announced."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.errors import LoaderFault, LoaderRefused
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess, alive, wait_for
from tests.support.reader import SPEC, fingerprint, read, read_until
from tests.support.same_size import two_of_one_size, write_over

VAL = StreamSpec("val", view="full")
ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture(scope="module")
def pair(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_of_one_size(packed, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def right(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    with LoaderProcess(pair[0], tmp_path_factory.mktemp("right"), 1) as service:
        return read(service.endpoint)


def copy_of(data: Path, folder: Path) -> Path:
    copy = folder / "data"
    shutil.copytree(data, copy)
    return copy


def replace_all_workers(service: LoaderProcess) -> None:
    before = service.workers
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for("other workers", lambda: service.workers and not any(map(alive, before)))


def test_a_dataset_packed_anew_under_a_running_loader_is_served_from_its_next_start(
    packed: Path, other_packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    data, crew = copy_of(packed, tmp_path), tmp_path / "workers"
    crew.write_text("2")
    with LoaderProcess(packed, tmp_path, 1) as service:
        val = read(service.endpoint, spec=VAL, batch_size=7)
    with LoaderProcess(data, tmp_path, 2, ANY_PORT, "--workers-file", str(crew)) as service:
        with LoaderClient(service.endpoint) as loader:
            batches = loader.stream(SPEC, 16).batches(range(2))
            seen = fingerprint(islice(batches, 4))
            shutil.rmtree(data)
            shutil.copytree(other_packed, data)
            replace_all_workers(service)
            seen += fingerprint(islice(batches, 4))
            crew.write_text("4")
            service.signal(signal.SIGHUP)
            wait_for("more workers", lambda: len(service.workers) == 4)
            assert fingerprint(loader.stream(VAL, 7).batches(range(2))) == val  # opened by nobody before
            assert seen + fingerprint(batches) == undisturbed
    assert f"{data}/val.lmdb was deleted or replaced" in service.log.read_text()


@pytest.mark.parametrize("restarted", [False, True], ids=["same workers", "new workers"])
def test_a_file_written_over_in_place_ends_its_streams_and_no_others(
    pair: tuple[Path, Path], tmp_path: Path, right: list[str], restarted: bool
) -> None:
    data = copy_of(pair[0], tmp_path)
    before = (data / "train.lmdb").stat()
    with LoaderProcess(data, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        train, val = loader.stream(SPEC, 16).batches(range(100)), loader.stream(VAL, 7).batches(range(100))
        assert fingerprint(islice(train, 3)) == right[:3]
        next(val)
        write_over(data / "train.lmdb", pair[1] / "train.lmdb")
        os.utime(data / "train.lmdb", ns=(before.st_atime_ns, before.st_mtime_ns))
        if restarted:
            replace_all_workers(service)
        seen: list[str] = []
        with pytest.raises(LoaderFault, match=r"train\.lmdb .* dataset under --data has changed; restart the loader"):
            seen.extend(fingerprint([batch])[0] for batch in train)
        assert seen == right[3 : 3 + len(seen)]
        with pytest.raises(LoaderFault, match="restart the loader"):
            next(loader.stream(StreamSpec(seed=4, crop=64), 16).batches([0]))
        assert len(list(islice(val, 20))) == 20
        assert service.process.poll() is None


def test_a_file_that_is_touched_linked_or_made_private_is_served_on(
    pair: tuple[Path, Path], tmp_path: Path, right: list[str]
) -> None:
    """One process reads it again; no worker does, not even a new one."""
    data = copy_of(pair[0], tmp_path)
    with LoaderProcess(data, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        workers, batches = service.workers, loader.stream(SPEC, 16).batches(range(2))
        seen = fingerprint(islice(batches, 3))
        os.utime(data / "train.lmdb")
        seen += fingerprint(islice(batches, 5))
        assert service.workers == workers
        replace_all_workers(service)
        os.link(data / "train.lmdb", data / "kept.lmdb")
        (data / "train.lmdb").chmod(0o600)
        assert seen + fingerprint(batches) == right
    assert service.log.read_text().count("train.lmdb is the dataset it was, verified in") == 1


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_a_stream_opened_anew_is_of_the_data_set_that_the_client_began_with(
    packed: Path, other_packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path) as goes, LoaderClient(goes.endpoint) as loader:
        stream = loader.stream(SPEC, 16)
        assert fingerprint(islice(stream.batches(range(2)), 3)) == undisturbed[:3]
        stream.close()
        goes.signal(signal.SIGKILL)
        goes.process.wait()
        with LoaderProcess(other_packed, tmp_path, 1, goes.endpoint):
            with pytest.raises(LoaderRefused, match=r"serves dataset \w+, not \w+"):
                loader.stream(replace(SPEC, sigma=0.0), 16)
            with pytest.raises(LoaderRefused, match="mean image of its val set are not those of the train set"):
                loader.stream(VAL, 16)


def test_a_folder_of_two_data_sets_is_not_served(packed: Path, other_packed: Path, tmp_path: Path) -> None:
    data = copy_of(packed, tmp_path)
    shutil.copyfile(other_packed / "val.lmdb", data / "val.lmdb")
    command = [sys.executable, "-m", "loader.cli.serve_command", "--data", str(data), "--bind", ANY_PORT]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 1
    assert "val.lmdb was not packed with" in ended.stderr


@pytest.mark.parametrize("harm", [cut_off, empty])
def test_a_file_that_is_cut_off_is_named_in_a_fault_and_the_rest_is_served(
    packed: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    data = copy_of(packed, tmp_path)
    with LoaderProcess(data, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        train, val = loader.stream(SPEC, 16).batches(range(100)), loader.stream(VAL, 7).batches(range(100))
        next(train), next(val)
        harm(data / "train.lmdb")
        with pytest.raises(LoaderFault, match=r"train\.lmdb"):
            list(train)
        replace_all_workers(service)
        with pytest.raises(LoaderFault, match=r"train\.lmdb (is cut off|cannot be opened)"):
            next(loader.stream(StreamSpec(seed=4, crop=64), 16).batches([0]))
        assert len(list(islice(val, 20))) == 20
        assert service.process.poll() is None


def test_a_host_whose_file_was_written_over_is_left_out_and_changes_nothing(
    pair: tuple[Path, Path], tmp_path: Path, right: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = copy_of(pair[0], tmp_path)
    with LoaderProcess(data, tmp_path) as changes, LoaderProcess(pair[0], tmp_path) as stays:
        with LoaderClient([changes.endpoint, stays.endpoint]) as loader:
            stream = loader.stream(SPEC, 16)
            passes = (batch for _ in range(10**6) for batch in stream.batches(range(2)))
            read_until(passes, lambda: stream.loaders.hosts == 2)
            write_over(data / "train.lmdb", pair[1] / "train.lmdb")
            read_until(passes, lambda: f"{changes.endpoint} is left out" in caplog.text)
            assert fingerprint(stream.batches(range(2))) == right
