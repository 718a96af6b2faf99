"""A page of LMDB that cannot be read is its records' fault alone: they are corrupt records, all others are served."""

import contextlib
import re
import shutil
import struct
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.client.client import LoaderClient
from common.errors import BadImage, DatasetError, LoaderFault
from common.spec import StreamSpec
from loader.dataset import Dataset
from loader.packing.dataset_writer import Writer
from loader.records import record_bytes
from loader.workers import sampler
from tests.support.bad_records import progress_of
from tests.support.damaged_pages import BRANCH, FLAGS_AT, HEADER, PAGE, Kind, bad_records, pages, write_page
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint
from tests.support.small_lmdb import write

RECORDS, SERVED = 3000, 400
VALUES = [(record % 2, bytes([record % 251]) * (900 + record % 100)) for record in range(RECORDS)]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose tree has branches below its root: many small records."""
    return write(tmp_path_factory.mktemp("deep") / "train.lmdb", [record_bytes(*value) for value in VALUES])


def not_a_branch(repeated: bytes) -> bool:
    """Return True if a page of these bytes does not claim to be a branch: LMDB aborts at some that do."""
    return (repeated * PAGE)[FLAGS_AT] & BRANCH == 0


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["leaf", "branch"]), st.sampled_from([b"\0" * PAGE, b"\xfe" * PAGE, None]))
def test_whatever_a_page_holds_each_record_is_right_or_bad(
    deep: Path, data: st.DataObject, kind: Kind, contents: bytes | None
) -> None:
    page = data.draw(st.sampled_from(pages(deep, kind)))
    contents = contents or data.draw(st.binary(min_size=1, max_size=64).filter(not_a_branch)) * PAGE
    damaged = deep.with_name("damaged.lmdb")
    shutil.copyfile(deep, damaged)
    write_page(damaged, page, contents[:PAGE])
    try:
        dataset = Dataset(damaged)
    except DatasetError:
        return  # the root, or the page that the metadata are on
    with dataset:
        for record in range(RECORDS):
            with contextlib.suppress(BadImage):
                assert dataset.read(record) == VALUES[record]


def test_a_damaged_leaf_costs_its_records_and_a_branch_those_below_it(deep: Path, tmp_path: Path) -> None:
    path, lost = tmp_path / "train.lmdb", {"leaf": list[int](), "branch": list[int]()}
    kinds: tuple[Kind, Kind] = ("leaf", "branch")
    for kind in kinds:
        for page in pages(deep, kind)[:20]:
            shutil.copyfile(deep, path)
            write_page(path, page, bytes(PAGE))
            lost[kind].append(len(bad_records(path) or []))
    assert 0 < max(lost["leaf"]) < 30
    assert 30 < max(lost["branch"]) < RECORDS


@pytest.fixture(scope="module")
def half_lost(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int], int]:
    """The packed images over and over, without one leaf of the training set; the records on it, and its number."""
    data = tmp_path_factory.mktemp("half") / "data"
    data.mkdir()
    shutil.copyfile(packed / "val.lmdb", data / "val.lmdb")
    with Dataset(packed / "train.lmdb") as dataset:
        values = [record_bytes(*dataset.read(record % dataset.records)) for record in range(SERVED)]
        meta = replace(dataset.meta, records=SERVED)
    with Writer(data / "train.lmdb") as writer:
        writer.commit(0, values, [], progress_of(meta))
        writer.finish(meta)
    whole = (data / "train.lmdb").read_bytes()
    for page in pages(data / "train.lmdb", "leaf"):
        write_page(data / "train.lmdb", page, bytes(PAGE))
        if bad := bad_records(data / "train.lmdb"):
            return data, set(bad), page
        (data / "train.lmdb").write_bytes(whole)
    raise AssertionError("no leaf of the training set holds records alone")


def test_records_behind_a_damaged_page_are_replaced_and_told_by_number(
    half_lost: tuple[Path, set[int], int], tmp_path: Path
) -> None:
    data, bad, _ = half_lost
    order, seen = sampler.order(SERVED, SPEC.seed, 0).tolist(), []
    for workers in (1, 3):
        with LoaderProcess(data, tmp_path, workers) as service, LoaderClient(service.endpoint) as loader:
            batches = [batch.copy() for batch in loader.stream(SPEC, 16).batches([0])]
            assert len(list(islice(loader.stream(StreamSpec("val"), 16).batches([0]), 3))) == 3
        seen.append(fingerprint(batches))
        told = [place for batch in batches for place in batch.replaced]
        assert [place.position for place in told] == [at for at, record in enumerate(order) if record in bad]
        assert {place.record for place in told} == bad
        assert {place.reason for place in told} == {"damaged: a page of the database"}
    assert seen[0] == seen[1]


def test_a_stream_that_is_to_stop_stops_at_the_first_record_of_a_damaged_page(
    half_lost: tuple[Path, set[int], int], tmp_path: Path
) -> None:
    data, bad, _ = half_lost
    first = next(record for record in sampler.order(SERVED, SPEC.seed, 0).tolist() if record in bad)
    with LoaderProcess(data, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        with pytest.raises(LoaderFault, match=rf"damaged: a page of the database.*\(record {first}\)"):
            list(loader.stream(replace(SPEC, on_bad_record="stop"), 16).batches([0]))


def test_a_page_at_which_lmdb_itself_aborts_ends_workers_and_its_record_is_reported(
    half_lost: tuple[Path, set[int], int], tmp_path: Path
) -> None:
    data, bad, page = half_lost
    shutil.copytree(data, tmp_path / "data")
    a_branch_without_keys = struct.pack("<QHHHH", page, 0, BRANCH, HEADER, PAGE).ljust(PAGE, b"\0")
    write_page(tmp_path / "data" / "train.lmdb", page, a_branch_without_keys)
    with LoaderProcess(tmp_path / "data", tmp_path) as service, LoaderClient(service.endpoint) as loader:
        with pytest.raises(LoaderFault, match="3 workers ended over epoch 0.*SIGABRT") as reported:
            list(loader.stream(SPEC, 16).batches([0]))
        assert int(re.findall(r"record (\d+)", str(reported.value))[0]) in bad
        assert len(list(islice(loader.stream(StreamSpec("val"), 16).batches([0]), 3))) == 3
