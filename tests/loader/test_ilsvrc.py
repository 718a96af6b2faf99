"""The archives of ILSVRC2012 are read in place, and packed."""

import shutil
from pathlib import Path

import pytest

from common.errors import UsageError
from loader.dataset import Dataset
from loader.packing import discover
from loader.packing.pack import PackOptions, pack
from tests.support.ilsvrc_archives import make_archives, tar_of, unpack
from tests.support.photo_tree import photo

WNIDS = ("n01440764", "n01443537", "n02084071")  # the last with id 2: ids are not in the order of the names
IDS = {1: WNIDS[1], 2: WNIDS[2], 3: WNIDS[0]}
TRUTH = [3, 1, 2, 2]


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return make_archives(tmp_path / "imagenet", IDS, TRUTH)


def test_training_pictures_are_read_in_place_from_the_tar_of_tars(archives: Path) -> None:
    train = discover.sources(archives)["train"]
    assert tuple(train.classes) == WNIDS
    assert list(train.labels) == [0] * 3 + [1] * 4 + [2] * 5
    for item in reversed(range(len(train))):
        label = int(train.labels[item])
        number = item - [0, 3, 7][label]
        assert train.name(item) == f"{WNIDS[label]}/{WNIDS[label]}_{number}.JPEG"
        assert train.read(item) == photo(10 * label + number)


@pytest.mark.parametrize("unpacked", [False, True])
def test_validation_labels_are_the_devkits_ids_mapped_to_class_names(archives: Path, unpacked: bool) -> None:
    if unpacked:
        unpack(archives / "ILSVRC2012_devkit_t12.tar.gz", archives)
        (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    val = discover.sources(archives)["val"]
    assert [val.classes[label] for label in val.labels] == [IDS[number] for number in TRUTH]
    assert [val.name(item)[-9:-5] for item in range(4)] == ["0001", "0002", "0003", "0004"]
    assert val.read(2) == photo(102)


def test_the_archives_pack(archives: Path, tmp_path: Path) -> None:
    train, val = pack(discover.sources(archives), tmp_path / "data", PackOptions(jobs=2))
    assert (train.records, train.classes, val.records) == (12, 3, 4)
    with Dataset(tmp_path / "data" / "val.lmdb") as dataset:
        assert dataset.classes == WNIDS
        labels = sorted(dataset.read(record)[0] for record in range(4))
        assert labels == sorted(WNIDS.index(IDS[number]) for number in TRUTH)


def test_training_archive_alone_is_enough(archives: Path) -> None:
    (archives / "ILSVRC2012_img_val.tar").unlink()
    assert list(discover.sources(archives)) == ["train"]


def test_what_is_missing_is_named(archives: Path) -> None:
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12\.tar\.gz is missing: the ILSVRC2012 devkit"):
        discover.sources(archives)
    (archives / "ILSVRC2012_img_train.tar").unlink()
    with pytest.raises(UsageError, match=r"but no ILSVRC2012_img_train\.tar"):
        discover.sources(archives)


def test_a_damaged_devkit_is_named(archives: Path) -> None:
    packed = archives / "ILSVRC2012_devkit_t12.tar.gz"
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(UsageError, match="the devkit in .* cannot be read"):
        discover.sources(archives)


def test_an_id_that_is_no_class_is_an_error(tmp_path: Path) -> None:
    folder = make_archives(tmp_path / "imagenet", IDS, [*TRUTH, 1001])
    with pytest.raises(UsageError, match="line 5 is 1001, which is not a class in data/meta.mat"):
        discover.sources(folder)


def test_a_validation_picture_beyond_the_ground_truth_is_an_error(archives: Path) -> None:
    (archives / "ILSVRC2012_img_val.tar").write_bytes(tar_of({"ILSVRC2012_val_00000005.JPEG": photo(1)}))
    with pytest.raises(UsageError, match="is none of the 4 images of the devkit"):
        discover.sources(archives)


def test_a_validation_class_without_training_pictures_is_an_error(archives: Path) -> None:
    only = {f"{WNIDS[0]}.tar": tar_of({"a.JPEG": photo(1)})}
    (archives / "ILSVRC2012_img_train.tar").write_bytes(tar_of(only))
    with pytest.raises(UsageError, match=r"class 'n01443537' and 1 more is not among the training set's 1 classes"):
        discover.sources(archives)


def test_an_archive_cut_off_while_it_was_fetched_is_an_error(archives: Path) -> None:
    whole = (archives / "ILSVRC2012_img_train.tar").read_bytes()
    (archives / "ILSVRC2012_img_train.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is cut off in .* fetch it again"):
        discover.sources(archives)
    shutil.rmtree(archives)


@pytest.mark.parametrize(
    "meta", [b"", b"no matrices at all", b"MATLAB 5.0 MAT-file".ljust(128) + b"\x0f\x00\x00\x00" * 9]
)
def test_a_devkit_whose_names_cannot_be_read_is_one_error(archives: Path, meta: bytes) -> None:
    unpack(archives / "ILSVRC2012_devkit_t12.tar.gz", archives)
    (archives / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").write_bytes(meta)
    with pytest.raises(UsageError, match="the devkit in .* cannot be read"):
        discover.sources(archives)
