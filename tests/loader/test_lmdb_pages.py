"""The places of records, found in LMDB's pages, are where LMDB itself finds them."""

import os
import tempfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DatasetError
from loader.data_file import DataFile
from loader.dataset import Dataset
from loader.lmdb_pages import Places
from loader.packing.dataset_writer import Writer
from loader.records import record_bytes
from tests.support.damaged_pages import PAGE, Kind, pages
from tests.support.small_lmdb import PICTURE, finish, progress, write

MOST, DAMAGED = 700, 900  # records


@st.composite
def histories(draw: st.DrawFn) -> list[dict[int, int | None]]:
    """Commits: lengths of records that are put, and None for those that are deleted."""
    size = draw(st.sampled_from([10, 900, 1990, 2100, 9000]))
    count = draw(st.integers(1, MOST if size < 9000 else 60))
    commits: list[dict[int, int | None]] = [dict.fromkeys(range(count), size)]
    lengths = st.one_of(st.none(), st.integers(0, 9000), st.just(size))
    commits += draw(st.lists(st.dictionaries(st.integers(0, count - 1), lengths, max_size=40), max_size=4))
    return commits


def written(path: Path, commits: list[dict[int, int | None]]) -> None:
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28, sync=False) as env:
        for number, commit in enumerate(commits):
            with env.begin(write=True) as transaction:
                transaction.put(b"progress", bytes([number]) * 500)
                transaction.put(b"skipped" + number.to_bytes(8, "big"), b"why")
                for record, length in commit.items():
                    key = record.to_bytes(8, "big")
                    if length is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, np.random.default_rng([record, number]).bytes(length))
        with env.begin(write=True) as transaction:
            transaction.delete(b"progress")
            transaction.put(b"meta", bytes(200_000))


@settings(max_examples=25, deadline=None)
@given(histories(), st.booleans(), st.sampled_from([1, 30, MOST]))
def test_each_place_is_where_lmdb_finds_the_value(
    commits: list[dict[int, int | None]], compacted: bool, at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.lmdb"
        written(path, commits)
        if compacted:
            with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as env:
                path = path.with_name("b.lmdb")
                with path.open("wb") as copy:
                    env.copyfd(copy.fileno(), compact=True)
        with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as env, env.begin() as transaction:
            file, count = DataFile(path), len(commits[0])
            places = Places.of(file, count, transaction.id())
            assert places is not None
            assert Places.of(file, count, transaction.id() + 1) is None
            order = np.random.default_rng(count).permutation(count)
            for number, record in enumerate(order.tolist()):
                if number % at_once == 0:
                    places.find(order[number : number + at_once])
                value, place = transaction.get(record.to_bytes(8, "big")), places.of_record(record)
                if not value:  # deleted, or empty
                    assert place is None
                else:
                    assert place is not None
                    assert os.pread(file.fd, place[1], place[0]) == value
            file.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A file with branches below its root, and values both in leaves and on pages of their own; its snapshot."""
    path = tmp_path_factory.mktemp("mixed") / "a.lmdb"
    written(path, [dict.fromkeys(range(DAMAGED), 900), dict.fromkeys(range(0, DAMAGED, 9), 2500)])
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as env, env.begin() as transaction:
        return path, transaction.id()


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(["leaf", "branch"]))
def test_of_a_damaged_page_nothing_is_read_that_lmdb_would_not_read(
    mixed: tuple[Path, int], data: st.DataObject, kind: Kind
) -> None:
    source, snapshot = mixed
    page = data.draw(st.sampled_from(pages(source, kind)))
    changed = data.draw(st.dictionaries(st.integers(10, PAGE - 1), st.integers(0, 255), min_size=1, max_size=9))
    raw = bytearray(source.read_bytes())
    for at, byte in changed.items():
        raw[page * PAGE + at] = byte
    with tempfile.TemporaryDirectory() as name:
        path, ours = Path(name) / "theirs.lmdb", Path(name) / "ours.lmdb"
        path.write_bytes(raw)
        ours.write_bytes(raw)
        file = DataFile(ours)
        with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as env, env.begin() as transaction:
            places = Places.of(file, DAMAGED, snapshot)
            assert places is not None
            places.find(np.arange(DAMAGED))
            for record in range(DAMAGED):
                if (place := places.of_record(record)) is not None:
                    found = os.pread(file.fd, place[1], place[0])
                    assert found == transaction.get(record.to_bytes(8, "big"))
        file.close()


def test_a_place_that_is_wrong_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(n % 2, PICTURE + bytes(n)) for n in range(20)])
    right = Places.of_record
    with Dataset(path) as found:
        found.find(np.arange(20))
        for wrong in ((8, 0), (0, -1), (1 << 30, 0), (-8, 5)):

            def shifted(places: Places, record: int, by: tuple[int, int] = wrong) -> tuple[int, int]:
                offset, length = right(places, record) or (0, 0)
                return offset + by[0], length + by[1]

            monkeypatch.setattr(Places, "of_record", shifted)
            for record in range(20):
                assert found.read(record) == (record % 2, PICTURE + bytes(record))


def test_a_file_that_is_cut_off_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)] * 20)
    with Dataset(path) as found:
        found.advise(np.arange(20))
        os.truncate(path, 100_000)
        with pytest.raises(DatasetError, match="was written to"):
            found.read(19)


def test_records_that_moved_in_the_open_file_are_noticed(tmp_path: Path) -> None:
    records = [record_bytes(n % 2, PICTURE[:3000] + bytes([n])) for n in range(40)]
    path = write(tmp_path / "train.lmdb", records)
    os.truncate(path, 1 << 22)
    with Writer(tmp_path / "other.lmdb") as writer:  # the same dataset, in two commits
        writer.commit(20, records[20:], [], progress(20, 40))
        writer.commit(0, records[:20], [], progress(40, 40))
        finish(writer, records)
    with Dataset(path) as found, Dataset(tmp_path / "other.lmdb") as other:
        assert found.digest == other.digest
        found.find(np.arange(40))
        assert found.read(0) == other.read(0)
        path.write_bytes((tmp_path / "other.lmdb").read_bytes())
        os.truncate(path, 1 << 22)
        with pytest.raises(DatasetError, match="was written to"):
            found.refuse_changes()
