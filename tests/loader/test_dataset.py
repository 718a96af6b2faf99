import ctypes
import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadImage, DatasetError
from common.images import jpeg
from loader import lmdb_file
from loader.dataset import Dataset
from loader.packing.dataset_writer import Writer
from loader.records import FORMAT, digest_of, extend_chain, record_bytes
from tests.support.processes import wait_for
from tests.support.small_lmdb import CLASSES, PICTURE, finish, progress, stats, write


def is_read_ahead(path: Path) -> bool:
    """Return True if the kernel reads ahead in this process's mapping of the file."""
    of_file = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            of_file = line.endswith(f" {path}")
        elif of_file and line.startswith("VmFlags:"):
            return "rr" not in line.split()  # "rr" is MADV_RANDOM
    raise AssertionError(f"{path} is not mapped")


def test_the_kernel_reads_ahead_where_the_data_fit_in_memory_and_there_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)] * 40)
    with Dataset(path):
        assert is_read_ahead(path)
    os.truncate(path, 1 << 42)  # 4 TiB, most of it a hole
    with Dataset(path) as found:
        assert not is_read_ahead(path)
        assert found.read(39) == (0, PICTURE)


def in_memory(path: Path) -> set[int]:
    """Pages of the first megabyte that are in the page cache; to read one would bring in others."""
    state = (ctypes.c_ubyte * 256)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 1 << 20, mmap.MAP_PRIVATE) as memory:
        view = ctypes.c_char.from_buffer(memory)
        assert ctypes.CDLL(None).mincore(ctypes.byref(view), ctypes.c_size_t(1 << 20), state) == 0
        del view
    return {page for page in range(256) if state[page] & 1}


def test_records_that_are_advised_come_into_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE + bytes(5000))] * 60)
    os.truncate(path, 1 << 42)  # a file that does not fit in memory, so read no more than is asked for
    with Dataset(path) as found, path.open("rb") as file:
        found.find(np.arange(60))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = in_memory(path)
        if len(before) > 100:
            pytest.skip("this file system's pages stay in memory")
        found.advise(np.array([7, 8, 50]))
        wait_for("advised pages", lambda: in_memory(path) - before)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    records = [record_bytes(n % 2, PICTURE + bytes(n)) for n in range(300)]
    with Dataset(write(tmp_path / "train.lmdb", records)) as found:
        assert (found.split, found.records, found.classes) == ("train", 300, CLASSES)
        for record in (299, 0, 256, 17):
            assert found.read(record) == (record % 2, PICTURE + bytes(record))
        np.testing.assert_array_equal(found.mean_hwc, stats().mean_hwc)
        np.testing.assert_array_equal(found.components, stats().components)
        assert found.mean_hwc.shape == (256, 256, 3)
        assert found.sd.dtype == found.components.dtype == np.float64
        assert list(found.verify()) == [None] * 300
        for absent in (300, -1, 2**40):
            with pytest.raises(DatasetError, match=f"no record {absent}; it holds 0 to 299"):
                found.read(absent)


def test_the_map_grows_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "SMALLEST_MAP", 1 << 16)
    records = [record_bytes(0, PICTURE)] * 40
    with Writer(tmp_path / "train.lmdb") as writer:
        for first in range(0, 40, 10):
            writer.commit(first, records[first : first + 10], [], progress(first, 40))
        finish(writer, records)
    assert os.path.getsize(tmp_path / "train.lmdb") > 20 << 16
    with Dataset(tmp_path / "train.lmdb") as found:
        assert list(found.verify()) == [None] * 40


def test_a_file_under_way_is_refused_and_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "train.lmdb"
    records = [record_bytes(n % 2, PICTURE) for n in range(5)]
    with Writer(path) as writer:
        assert (writer.meta, writer.progress) == (None, None)
        writer.commit(0, records[:3], [(9, "train/ape/9.jpg", "broken")], progress(4, 6))
    with pytest.raises(DatasetError, match=r"is not finished \(4 of 6 images\); run the same alexnet-pack again"):
        Dataset(path)
    with Writer(path) as writer:
        assert writer.progress is not None
        assert writer.progress.to_bytes() == progress(4, 6).to_bytes()
        assert writer.skipped() == [(9, "train/ape/9.jpg", "broken")]
        writer.commit(3, records[3:], [], progress(6, 6))
        finish(writer, records)
    with Dataset(path) as found:
        assert list(found.verify()) == [None] * 5
        assert found.skipped() == [(9, "train/ape/9.jpg", "broken")]
    with Writer(path) as writer:
        assert writer.progress is None
        assert writer.meta is not None


def test_each_digest_names_contents_labels_order_classes_and_split() -> None:
    def digest(records: list[bytes], classes: tuple[str, ...] = CLASSES, split: str = "train") -> bytes:
        chain = b""
        for record in records:
            chain = extend_chain(chain, record)
        return digest_of(chain, split, classes, stats())

    one, two = record_bytes(0, PICTURE), record_bytes(1, PICTURE)
    digests = {
        digest([one, two]),
        digest([two, one]),
        digest([one, one]),
        digest([one]),
        digest([one, record_bytes(1, PICTURE + b"\0")]),
        digest([one, two], ("ape", "bea")),
        digest([one, two], split="val"),
    }
    assert len(digests) == 7
    assert digest([one, two]) in digests
    assert {len(digest) for digest in digests} == {16}


@pytest.mark.parametrize("contents", [b"", b"notes", b"x" * 100_000])
def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "train.lmdb").write_bytes(contents)
    with pytest.raises(DatasetError, match=r"train\.lmdb"):
        Dataset(tmp_path / "train.lmdb")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train\.lmdb is missing; alexnet-pack makes it"):
        Dataset(tmp_path / "train.lmdb")


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"has format 99, this program reads {FORMAT}"):
        Dataset(write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)], format=99))


def test_damaged_metadata_are_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is damaged"):
        Dataset(write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)], stats=replace(stats(), sd=np.zeros(2))))


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.999))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "train.lmdb"
    write(path, [record_bytes(0, PICTURE)] * 20)
    os.truncate(path, int(share * os.path.getsize(path)))
    with pytest.raises(DatasetError, match=r"train\.lmdb"):
        Dataset(path)


def test_a_record_whose_bytes_are_not_those_packed_is_not_given_out(tmp_path: Path) -> None:
    changed = bytearray(record_bytes(1, PICTURE))
    changed[5000] ^= 1  # libjpeg would decode it without a word
    with Dataset(write(tmp_path / "train.lmdb", [bytes(changed), record_bytes(7, PICTURE)])) as found:
        with pytest.raises(BadImage, match="damaged: checksum"):
            found.read(0)
        with pytest.raises(BadImage, match="damaged: label 7 of 2 classes"):
            found.read(1)


def test_verify_names_each_kind_of_fault(tmp_path: Path) -> None:
    sound, other_size = record_bytes(1, PICTURE), jpeg.encode(np.zeros((8, 8, 3), np.uint8), 90)
    changed = bytearray(sound)
    changed[5000] ^= 1
    records = [sound, bytes(changed), record_bytes(7, PICTURE), record_bytes(0, other_size), record_bytes(0, b"no")]
    with Dataset(write(tmp_path / "train.lmdb", records)) as found:
        faults = list(found.verify())
    assert faults[:4] == [None, "checksum", "label 7 of 2 classes", "8x8 pixels"]
    assert faults[4]


def test_verify_notices_records_that_are_sound_but_not_the_ones_packed(tmp_path: Path) -> None:
    path = write(tmp_path / "train.lmdb", [record_bytes(0, PICTURE)] * 2, digest=bytes(16))
    with Dataset(path) as found, pytest.raises(DatasetError, match="do not have the digest"):
        list(found.verify())
