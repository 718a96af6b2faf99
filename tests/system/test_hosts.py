"""Several hosts at once, with real processes: they join, leave, come back as another, and the stream stays the same."""

import signal
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.client.stream import Stream
from common.errors import LoaderRefused, UsageError
from common.spec import OnBadRecord, StreamSpec
from loader.dataset import Dataset
from tests.support.bad_records import flip_a_bit, with_records
from tests.support.processes import LoaderProcess, wait_for
from tests.support.reader import SPEC, fingerprint, read_until


def test_hosts_join_and_leave_as_a_file_says(packed: Path, tmp_path: Path, undisturbed: list[str]) -> None:
    file = tmp_path / "loaders"
    with LoaderProcess(packed, tmp_path, 1) as leaves, LoaderProcess(packed, tmp_path, 1) as joins:
        file.write_text(f"{leaves.endpoint}  # the first\n")
        with LoaderClient(loaders_file=file) as loader:
            passes = (batch for _ in range(10**6) for batch in loader.stream(SPEC, 16).batches(range(2)))
            assert fingerprint(islice(passes, 5)) == undisturbed[:5]
            (tmp_path / "new").write_text(f"\n# moved\n{joins.endpoint}\n")
            (tmp_path / "new").replace(file)
            read_until(passes, lambda: "credit" in joins.log.read_text())
            wait_for("the first to be left", lambda: "closed" in leaves.log.read_text())
            leaves.signal(signal.SIGKILL)
            assert fingerprint(loader.stream(SPEC, 16).batches(range(2))) == undisturbed


def test_a_host_that_falls_silent_is_passed_over_and_asked_again_when_it_speaks(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path, 1) as stops, LoaderProcess(packed, tmp_path, 1) as other:
        with LoaderClient([stops.endpoint, other.endpoint]) as loader:
            batches = loader.stream(SPEC, 16).batches(range(2))
            seen = fingerprint(islice(batches, 3))
            stops.signal(signal.SIGSTOP)
            seen += fingerprint(islice(batches, 10))  # more than it could owe
            stops.signal(signal.SIGCONT)
            other.signal(signal.SIGSTOP)
            assert seen + fingerprint(batches) == undisturbed


def test_a_bad_file_of_hosts_leaves_them_as_they_are(
    service: LoaderProcess, tmp_path: Path, undisturbed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "loaders"
    file.write_text(service.endpoint)
    with LoaderClient(loaders_file=file) as loader:
        passes = (batch for _ in range(10**6) for batch in loader.stream(SPEC, 16).batches(range(2)))
        for text, says in (("tcp://nowhere", "line 1"), ("# nobody", "names no loader")):
            file.write_text(text)
            read_until(passes, lambda says=says: says in caplog.text)  # type: ignore[misc]
        file.unlink()
        read_until(passes, lambda: "cannot be read" in caplog.text)
        assert fingerprint(loader.stream(SPEC, 16).batches(range(2))) == undisturbed
    assert caplog.text.count("the loaders stay the same") == 3
    with pytest.raises(UsageError, match="--loaders"):
        LoaderClient(loaders_file=file)


def test_hosts_of_different_data_sets_are_refused_at_the_start_and_both_are_named(
    packed: Path, service: LoaderProcess, tmp_path: Path, other_packed: Path
) -> None:
    with Dataset(packed / "train.lmdb") as one, Dataset(other_packed / "train.lmdb") as two:
        digests = one.digest.hex(), two.digest.hex()
    with LoaderProcess(other_packed, tmp_path, 1) as second:
        with LoaderClient([service.endpoint, second.endpoint]) as loader, pytest.raises(LoaderRefused) as refused:
            list(loader.stream(SPEC, 16).batches(range(10**6)))
    assert all(digest in str(refused.value) for digest in digests)


def test_a_host_that_comes_back_with_another_data_set_is_left_out(
    packed: Path,
    other_packed: Path,
    service: LoaderProcess,
    tmp_path: Path,
    undisturbed: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LoaderProcess(packed, tmp_path, 1) as goes:
        with LoaderClient([goes.endpoint, service.endpoint]) as loader:
            stream = loader.stream(SPEC, 16)
            passes = (batch for _ in range(10**6) for batch in stream.batches(range(2)))
            read_until(passes, lambda: stream.loaders.hosts == 2)
            goes.signal(signal.SIGKILL)
            goes.process.wait()
            with LoaderProcess(other_packed, tmp_path, 1, goes.endpoint):
                read_until(passes, lambda: f"{goes.endpoint} is left out" in caplog.text)
                assert fingerprint(stream.batches(range(2))) == undisturbed


def test_an_only_host_that_comes_back_with_another_data_set_ends_the_run_naming_both(
    packed: Path, other_packed: Path, tmp_path: Path
) -> None:
    with LoaderProcess(packed, tmp_path, 1) as goes, LoaderClient(goes.endpoint) as loader:
        batches = loader.stream(SPEC, 16).batches(range(10**6))
        next(batches)
        goes.signal(signal.SIGKILL)
        goes.process.wait()
        with (
            LoaderProcess(other_packed, tmp_path, 1, goes.endpoint),
            pytest.raises(LoaderRefused, match="serves dataset"),
        ):
            list(batches)


def test_a_host_that_is_gone_is_not_waited_for_where_the_others_refuse(service: LoaderProcess) -> None:
    with LoaderClient([service.endpoint, "tcp://127.0.0.1:9"]) as loader:
        with pytest.raises(LoaderRefused, match="stream may take"):
            loader.stream(StreamSpec(crop=256), 10_000)


@pytest.mark.parametrize("policy", ["replace", "stop"])
def test_a_host_whose_disk_damaged_a_record_is_left_out_and_changes_nothing(
    packed: Path,
    service: LoaderProcess,
    tmp_path: Path,
    undisturbed: list[str],
    caplog: pytest.LogCaptureFixture,
    policy: OnBadRecord,
) -> None:
    damaged = with_records(packed, tmp_path / "damaged", {})
    flip_a_bit(damaged, 7)
    with LoaderProcess(damaged, tmp_path, 1) as bad:
        with LoaderClient([bad.endpoint, service.endpoint]) as loader:
            stream = loader.stream(replace(SPEC, on_bad_record=policy), 16)
            batches = stream.batches(range(10**6))  # in each epoch the record has another place, and perhaps host
            read_until(batches, lambda: "is left out: its record 7 is corrupt" in caplog.text)
            assert fingerprint(stream.batches(range(2))) == undisturbed
    assert bad.endpoint in caplog.text


def both_are_open(stream: Stream) -> bool:
    return bool(stream.names([0])) and stream.loaders.hosts == 2


def test_a_host_that_fails_on_several_tickets_at_once_is_left_out_once(
    packed: Path, service: LoaderProcess, tmp_path: Path, undisturbed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = with_records(packed, tmp_path / "damaged", {})
    for record in range(40):
        flip_a_bit(damaged, record)
    with LoaderProcess(damaged, tmp_path, 2) as bad:
        for _ in range(8):  # the faults of two tickets do not always come together
            caplog.clear()
            with LoaderClient([bad.endpoint, service.endpoint]) as loader:
                stream = loader.stream(replace(SPEC, on_bad_record="stop"), 16)
                wait_for("both hosts", partial(both_are_open, stream))  # alone it is believed
                read_until(stream.batches(range(10**6)), lambda: "is left out" in caplog.text)
                assert fingerprint(stream.batches(range(2))) == undisturbed
            assert caplog.text.count("is left out: its record") == 1


def test_a_host_that_is_alone_is_believed_about_its_bad_record(packed: Path, tmp_path: Path) -> None:
    changed = with_records(packed, tmp_path / "bad", {7: b"no picture"})
    with LoaderProcess(changed, tmp_path, 1) as one, LoaderProcess(changed, tmp_path, 1) as other:
        with LoaderClient(one.endpoint) as loader:
            alone = fingerprint(loader.stream(SPEC, 16).batches(range(2)))
        with LoaderClient([one.endpoint, other.endpoint]) as loader:
            assert fingerprint(loader.stream(SPEC, 16).batches(range(2))) == alone
