"""The audit finds, from dataset, seed and positions alone, exactly the images that were delivered. That they are those
trained on is in test_trainer_command.py.
"""

import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from common import digest
from common.client.client import LoaderClient
from common.errors import AlexNetError, DatasetError, UsageError
from common.spec import StreamSpec
from loader.cli.audit_command import audit, parts_of
from loader.dataset import Dataset
from loader.workers.audit import Audited, Part
from loader.workers.audit import audit as audit_parts
from tests.support.bad_records import with_records
from tests.support.processes import LoaderProcess, children, command_line

SPEC = StreamSpec(seed=3, crop=64)


@pytest.fixture(scope="module")
def spoilt(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_records(
        packed, tmp_path_factory.mktemp("spoilt") / "data", {3: b"no picture", 77: b"", 149: b"nor this"}
    )


def run(data: Path, *options: object, code: int = 0) -> str:
    """The command in this process: its stdout, or stderr if it is to fail."""
    done = CliRunner().invoke(audit, ["--data", *map(str, (data, *options))])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def audited(data: Path, *options: str) -> list[str]:
    return run(data, *options).splitlines()


@pytest.mark.parametrize(("jobs", "shuffle"), [("1", True), ("2", False)])
def test_the_audit_finds_the_digests_that_a_service_delivered(
    spoilt: Path, tmp_path: Path, jobs: str, shuffle: bool
) -> None:
    told, rolling, spec = [], digest.NOTHING, replace(SPEC, shuffle=shuffle)
    with LoaderProcess(spoilt, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        stream = loader.stream(spec, 16, digests="on")
        for batch in stream.batches([5]):
            assert batch.digests is not None
            positions = f"positions {batch.first}..{batch.first + len(batch) - 1}"
            one = digest.roll(digest.NOTHING, batch.digests).hex()
            told.append(f"batch {batch.first // 16}: {positions}, digest {one}")
            for position, record, reason in batch.replaced:
                other = batch.records[position - batch.first]
                bad, good = (
                    f"{each} ({name})"
                    for each, name in zip((record, other), stream.names([record, other]), strict=True)
                )
                told.append(f"  position {position}: record {bad} is corrupt, record {good} takes its place: {reason}")
            rolling = digest.roll(rolling, batch.digests)
    options = ["--seed", "3", "--crop", "64", "--epoch", "5", "--shuffle", str(shuffle)]
    lines = audited(spoilt, *options, "--batch-size", "16", "--jobs", jobs)
    assert lines[:-1] == told
    assert len(told) == 10 + 3
    assert lines[-1] == f"epoch 5, positions 0..149 of 150: digest {rolling.hex()}, corrupt records replaced: 3"


def test_a_part_of_an_epoch_has_the_whole_ones_lines(packed: Path) -> None:
    every = audited(packed, "--epoch", "0", "--batch-size", "30", "--jobs", "1")
    assert audited(packed, "--epoch", "0", "--batch-size", "30", "--batches", "1..3", "--jobs", "1")[:-1] == every[1:4]
    (other,) = audited(packed, "--epoch", "1", "--batch-size", "30", "--batches", "1", "--jobs", "1")[:-1]
    assert other not in every


def test_a_changed_pixel_record_or_order_changes_the_epochs_digest(packed: Path, tmp_path: Path) -> None:
    def last(data: Path, *options: str) -> str:
        told = re.search(r"digest (\w{32})", audited(data, "--epoch", "0", "--jobs", "1", *options)[-1])
        assert told is not None
        return told[1]

    found = [
        last(packed),
        last(packed, "--seed", "1"),
        last(packed, "--sigma", "0"),
        last(packed, "--pixels", "float32"),
    ]
    assert len(set(found)) == 4
    assert last(packed, "--batch-size", "7") == found[0]


def test_where_the_stream_stopped_the_audit_stops_and_names_the_record(spoilt: Path) -> None:
    told = run(spoilt, "--epoch", "0", "--on-bad-record", "stop", "--jobs", "1", code=1)
    assert re.search(r"error: record (3|77|149): Not a JPEG|error: record 77: .*empty", told)


def test_another_data_set_than_was_asked_for_is_not_audited_nor_one_that_comes_in_its_place(
    packed: Path, other_packed: Path, tmp_path: Path
) -> None:
    asked = "0" * 32
    told = run(packed, "--epoch", "0", "--dataset", asked, code=2)
    assert re.search(rf"train.lmdb is dataset \w{{32}}, not {asked}", told)
    path = tmp_path / "train.lmdb"
    shutil.copyfile(packed / "train.lmdb", path)
    with Dataset(path) as dataset:
        digest = dataset.digest
    (tmp_path / "new").write_bytes((other_packed / "train.lmdb").read_bytes())
    (tmp_path / "new").replace(path)
    with pytest.raises(DatasetError, match="another dataset than when the audit began"):
        list(audit_parts(path, digest, SPEC, 16, [Part(0, 0, 16)], 1))


def test_a_killed_process_of_the_audit_is_an_error_and_no_hang(packed: Path) -> None:
    parts = [Part(0, first, 1) for first in range(150)] * 4
    before = set(children(os.getpid()))
    with Dataset(packed / "train.lmdb") as dataset:
        digest = dataset.digest
    found = audit_parts(packed / "train.lmdb", digest, SPEC, 1, parts, 2)
    assert isinstance(next(found), Audited)
    for pid in set(children(os.getpid())) - before:
        if "spawn_main" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(AlexNetError, match="was killed"):
        list(found)


def test_the_options_defaults_are_the_streams() -> None:
    defaults = {option.name: option.default for option in audit.params if isinstance(option, click.Option)}
    for name in StreamSpec.__dataclass_fields__:
        assert defaults[name] == getattr(StreamSpec(), name)


def test_batches_are_named_by_their_first_and_last() -> None:
    assert parts_of(4, 150, 64, None) == [Part(4, 0, 64), Part(4, 64, 64), Part(4, 128, 22)]
    assert parts_of(4, 150, 64, "1..2") == [Part(4, 64, 64), Part(4, 128, 22)]
    assert parts_of(4, 150, 64, "0") == [Part(4, 0, 64)]
    for wrong in ("2..1", "0..3", "3", "-1", "a..b", "1..", "..2", "1.2"):
        with pytest.raises(UsageError, match="--batches"):
            parts_of(4, 150, 64, wrong)
