"""A folder that is deleted or replaced while it is packed: what lies there now is not written to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UsageError
from tests.support.packing import pack_folder, packing
from tests.support.photo_tree import make_tree
from tests.support.processes import wait_for

KEPT = b"another's file"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("photos"), 600, 40, bad_every=50)


def folder_deleted(data: Path) -> None:
    shutil.rmtree(data)


def folder_replaced(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()
    for name in ("train.lmdb", "val.lmdb"):
        (data / name).write_bytes(KEPT)


def file_replaced(data: Path) -> None:
    (data / "new").write_bytes(KEPT)
    (data / "new").replace(data / "train.lmdb")


@pytest.mark.parametrize("harm", [folder_deleted, folder_replaced, file_replaced])
def test_a_folder_deleted_or_replaced_while_it_is_packed_ends_the_packing_and_is_left_alone(
    tree: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    data = tmp_path / "data"
    with packing(tree, data) as process:
        wait_for("a commit", lambda: (data / "train.lmdb").exists() and (data / "train.lmdb").stat().st_size > 100_000)
        harm(data)
        _, said = process.communicate(timeout=250)
    assert process.returncode == 1
    assert "was deleted or replaced while it was packed; run the same command again" in said
    assert "Traceback" not in said
    assert {path.read_bytes() for path in data.glob("*.lmdb")} <= {KEPT}


def test_packing_is_not_resumed_over_a_training_set_that_was_replaced(tree: Path, tmp_path: Path) -> None:
    small = make_tree(tmp_path / "small", 20, 5)
    pack_folder(small, tmp_path / "one")
    shutil.rmtree(small / "train")
    shutil.copytree(make_tree(tmp_path / "others", 24, 5) / "train", small / "train")
    pack_folder(small, tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "train.lmdb", tmp_path / "one" / "train.lmdb")
    with pytest.raises(UsageError, match=r"val\.lmdb was packed from another source"):
        pack_folder(small, tmp_path / "one")
