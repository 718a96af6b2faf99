"""Folders and tars as sources."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import BadImage, UsageError
from loader.packing import archive, discover
from loader.packing.sources import FolderSource, Names
from tests.support.photo_tree import make_tree

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def test_a_folder_is_listed_in_the_order_of_bytes_with_names_labels_and_contents(tmp_path: Path) -> None:
    make_tree(tmp_path, 7, 3)
    (tmp_path / "train" / "ape" / ".hidden").write_bytes(b"")
    (tmp_path / "train" / ".DS_Store").write_bytes(b"")
    train = pickle.loads(pickle.dumps(discover.sources(tmp_path)["train"]))  # as a worker gets it
    assert train.classes == ("ape", "bee", "cat")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert [train.name(item) for item in (0, 1, 6)] == [
        "train/ape/00000.jpg",
        "train/ape/00003.jpg",
        "train/cat/00005.jpg",
    ]
    assert train.read(6) == (tmp_path / "train" / "cat" / "00005.jpg").read_bytes()


def test_validation_takes_the_training_sets_labels(tmp_path: Path) -> None:
    make_tree(tmp_path, 3)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat" / "1.jpg").write_bytes(b"x")
    assert discover.sources(tmp_path)["val"].labels[0] == 2
    (tmp_path / "val" / "dog").mkdir()
    (tmp_path / "val" / "dog" / "1.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="class 'dog' is not among the training set's 3 classes"):
        discover.sources(tmp_path)


def test_names_of_any_bytes_are_read_and_told_as_text(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"train", b"caf\xe9")
    os.makedirs(folder)
    Path(os.fsdecode(os.path.join(folder, b"\xff\xfe.jpg"))).write_bytes(b"x")
    source = FolderSource(tmp_path / "train")
    assert source.classes == ("caf\\xe9",)
    assert source.name(0) == "train/caf\\xe9/\\xff\\xfe.jpg"
    assert source.read(0) == b"x"


def test_what_is_no_readable_file_is_a_bad_image_and_never_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "ape"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "a-pipe")
    (folder / "b-link").symlink_to("nowhere")
    with open(folder / "c-huge", "wb") as file:
        file.truncate(1 << 33)
    source = FolderSource(tmp_path / "train")
    for item, reason in enumerate(["not a regular file", "a link to nothing", "8,589,934,592 bytes are more than"]):
        with pytest.raises(BadImage, match=reason):
            source.read(item)


def test_a_file_that_vanished_is_an_error_of_the_source_not_of_the_picture(tmp_path: Path) -> None:
    make_tree(tmp_path, 3)
    source = FolderSource(tmp_path / "train")
    (tmp_path / "train" / "ape" / "00000.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        source.read(0)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("train/ape/inner/1.jpg", "is a folder: images lie directly in the class's folder"),
        ("train/1.jpg", "lies in no class's folder"),
        ("photos/ape/1.jpg", "holds no train/; SOURCE holds train/<class>"),
        ("train/ape/.hidden", "holds no image"),
    ],
)
def test_another_shape_of_folder_is_an_error_that_says_what_is_expected(tmp_path: Path, path: str, told: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"x")
    with pytest.raises(UsageError, match=told):
        discover.sources(tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300)))
def test_names_gives_back_what_it_was_given(parts: list[bytes]) -> None:
    names = Names(parts)
    assert [names[item] for item in range(len(names))] == parts


def write_tar(path: Path, files: dict[str, bytes], tar_format: int) -> None:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


part = st.text(st.characters(exclude_characters="/\0.", exclude_categories=["Cs"]), min_size=1, max_size=40)
path_names = st.lists(part, min_size=1, max_size=6).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(path_names, st.binary(max_size=1500), max_size=8), st.sampled_from(FORMATS))
@example({"\x80\n": b""}, tarfile.PAX_FORMAT)  # a name that ends as its record does
def test_members_of_any_tar_lie_where_they_are_said_to(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], tar_format: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    try:
        write_tar(path, files, tar_format)
    except ValueError:  # too long a name for USTAR
        return
    raw = path.read_bytes()
    found = {m.name.decode(): raw[m.offset : m.offset + m.size] for m in archive.members(path)}
    assert found == files


def test_a_tree_in_a_tar_is_the_same_source_as_its_folder(tmp_path: Path) -> None:
    make_tree(tmp_path / "photos", 7, 4)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", arcname=".")
    folders, members = discover.sources(tmp_path / "photos"), discover.sources(tmp_path / "photos.tar")
    for split in ("train", "val"):
        ours, theirs = folders[split], pickle.loads(pickle.dumps(members[split]))
        assert ours.classes == theirs.classes
        assert list(ours.labels) == list(theirs.labels)
        assert [ours.name(n) for n in range(len(ours))] == [theirs.name(n) for n in range(len(theirs))]
        assert [ours.read(n) for n in range(len(ours))] == [theirs.read(n) for n in range(len(theirs))]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / f"a.tar.{kind}", f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("train/ape/1.jpg"))
    with pytest.raises(UsageError, match=r"is compressed \(.*\); unpack it"):
        discover.sources(tmp_path / f"a.tar.{kind}")


@pytest.mark.parametrize("damage", [b"no tar at all" * 100, b"x"])
def test_a_file_that_is_no_tar_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(damage)
    with pytest.raises(UsageError, match=r"a\.tar (is no tar archive|is cut off)"):
        discover.sources(tmp_path / "a.tar")


def test_a_tar_with_links_asks_to_be_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("train/ape/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(link)
    with pytest.raises(UsageError, match="is a link or sparse; unpack"):
        discover.sources(tmp_path / "a.tar")
