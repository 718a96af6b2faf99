"""Names of records, from the source through packing to the packed split."""

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DatasetError, PackError
from common.imagenet.devkit import ORDER_SEED, shuffled
from common.images.stored import stored_jpeg
from common.names import MOST_BYTES, bounded, readable
from loader import lmdb_file
from loader.cli.pack_command import main
from loader.dataset import Dataset, FileTouched
from loader.name_blocks import NAMES
from loader.packing import discover
from loader.packing.dataset_writer import Writer
from loader.records import HEAD, record_bytes
from tests.support.packing import forget_names, pack_folder
from tests.support.photo_tree import contents, make_tree, photo
from tests.support.small_lmdb import PICTURE, finish, progress, write

HOSTILE = [b"\xff\xfe\n\x1b[31m.jpg", b"a b\r.jpg", "größe\u202e.jpg".encode(), b"x" * 251 + b".jpg"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = make_tree(tmp_path_factory.mktemp("photos"), 60, bad_every=20)
    for seed, name in enumerate(HOSTILE):
        with open(os.path.join(os.fsencode(tree / "train" / "ape"), name), "wb") as file:
            file.write(photo(500 + seed))
    return tree


@pytest.fixture(scope="module")
def packed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    pack_folder(tree, data, jobs=1, commit_records=10)
    return data


def names_of(path: Path) -> list[bytes]:
    with Dataset(path) as dataset:
        assert list(dataset.verify()) == [None] * dataset.records
        return [dataset.name(record) for record in range(dataset.records)]


def test_each_record_has_the_name_of_its_own_file(tree: Path, packed: Path) -> None:
    names = names_of(packed / "train.lmdb")
    assert len(set(names)) == 61
    assert {b"ape/" + name for name in HOSTILE} < set(names)
    with Dataset(packed / "train.lmdb") as dataset:
        for record, name in enumerate(names):
            with open(os.path.join(os.fsencode(tree / "train"), name), "rb") as file:
                assert stored_jpeg(file.read())[0] == dataset.read(record)[1]
        assert (dataset.name(-1), dataset.name(61)) == (b"", b"")


def test_a_tar_gives_the_names_of_its_folder_and_longer_ones_are_cut(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(tree, arcname=".")
        tar.addfile(tarfile.TarInfo("train/zoo/" + "y" * 3000 + ".jpg"))
    folder, archive = (discover.sources(source)["train"] for source in (tree, tmp_path / "photos.tar"))
    *paths, longest = [archive.path(item) for item in range(len(archive))]
    assert paths == [folder.path(item) for item in range(len(folder))]
    cut = bounded(longest)
    assert (len(longest), len(cut), cut[:8], cut[-8:]) == (3008, MOST_BYTES - 1, b"zoo/yyyy", b"yyyy.jpg")


def test_data_without_names_are_the_same_dataset_and_info_says_so(packed: Path, tmp_path: Path) -> None:
    before = shutil.copytree(packed, tmp_path / "before")
    forget_names(before / "train.lmdb")
    assert contents(before) == contents(packed)
    assert set(names_of(before / "train.lmdb")) == {b""}
    told = [CliRunner().invoke(main, ["--info", str(data)]).output for data in (packed, before)]
    assert "names       of all files, such as " in told[0]
    assert "names       none: packed before names were kept" in told[1]


def test_packing_that_an_older_program_began_ends_with_all_names(packed: Path, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos", 70)
    bad = tree / "train" / os.fsdecode(discover.sources(tree)["train"].path(int(shuffled(70, ORDER_SEED)[50])))
    sound = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(PackError, match="cannot be decoded"):
        pack_folder(tree, tmp_path / "data", jobs=1, on_bad="stop", commit_records=16)
    path = tmp_path / "data" / "train.lmdb"
    with Writer(path) as writer:
        assert writer.progress is not None
        assert 0 < writer.progress.named == writer.progress.records == 32
    forget_names(path)
    bad.write_bytes(sound)
    pack_folder(tree, tmp_path / "data", jobs=1)
    names = names_of(path)
    assert len(set(names)) == len(names) == 70
    with Dataset(path) as dataset:
        for record, name in enumerate(names):
            assert stored_jpeg((tree / "train" / os.fsdecode(name)).read_bytes())[0] == dataset.read(record)[1]


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x91\x01", b"\x91\xa1x", b"\x91\xc4\x05ab", bytes(1 << 18)])
def test_a_damaged_block_costs_names_alone(damage: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)] * 3, named=3)
    with Writer(path) as writer:
        lmdb_file.write(writer._env, path, [(NAMES + bytes(8), damage)])
    assert names_of(path) == [b""] * 3


def test_a_touched_file_is_not_read_anew_for_a_name_which_would_hold_up_the_service(
    packed: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(packed / "train.lmdb", tmp_path))
    with Dataset(path) as dataset:
        _, jpeg = dataset.read(0)
        with path.open("r+b") as file:  # a reader of the whole would see that it is another dataset
            file.seek(path.read_bytes().index(jpeg) - HEAD.size)
            file.write(b"other")
        assert dataset.name(0) == names_of(packed / "train.lmdb")[0]
        with pytest.raises(FileTouched):
            dataset.refuse_changes()
        with pytest.raises(DatasetError, match="another dataset now"):
            list(dataset.compare())
        os.truncate(path, path.stat().st_size - 4096)
        with pytest.raises(DatasetError, match="another dataset now"):
            dataset.name(dataset.records - 1)


def test_every_record_keeps_its_place_in_the_file_beside_names(tmp_path: Path) -> None:
    """Commits in turn: names and records share LMDB's pages."""
    path, records = tmp_path / "train.lmdb", [record_bytes(n % 2, PICTURE + bytes(n)) for n in range(300)]
    with Writer(path) as writer:
        for first in range(0, 300, 10):
            named = replace(progress(first + 10, 300), named=first + 10)
            writer.commit(first, records[first : first + 10], [], named, [b"%d" % n for n in range(first, first + 10)])
        finish(writer, records, named=300)
    with Dataset(path) as dataset:
        dataset.find(np.arange(300))
        assert all(dataset._reads.value(record) == records[record] for record in range(300))
        for record in (299, 0, 10, 9):
            assert dataset.name(record) == b"%d" % record


@given(st.binary(max_size=2000))
def test_a_name_of_any_bytes_is_bounded_and_readable(name: bytes) -> None:
    kept = bounded(name)
    assert kept == name or (len(kept) <= MOST_BYTES < len(name) and name.startswith(kept[:250]))
    readable(kept).encode()  # has no surrogates: JSON and terminals take it
