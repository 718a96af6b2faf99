"""Image files in folders: each once, in order, with its class; whatever lies there."""

import inspect
import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UsageError
from tests.support.nobody import as_nobody
from tests.support.photo_tree import photo
from trainer.predicting.collection import Collection, ImageFile, check_images
from trainer.predicting.reading import read_ahead

CLASSES = ("ape", "bee", r"caf\xe9")


def found(*named: Path, outputs: tuple[Path, ...] = ()) -> list[tuple[str, int | None]]:
    root = Path(os.path.commonpath(named)) if len(named) > 1 else named[0]
    files = list(Collection(named, CLASSES, outputs))
    return [(os.fsdecode(os.path.relpath(file.path, os.fsencode(root))), file.label) for file in files]


def fill(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).touch()
    return root


def test_folders_are_walked_in_the_order_of_bytes_and_the_first_below_the_one_named_gives_the_class(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "z.jpg", "bee/b.jpg", "bee/deep/ape/c.jpg", "bee/B.jpg", "ape/x", "other/d.jpg", b"caf\xe9/e.jpg")
    fill(tmp_path, ".hidden", "ape/.y", ".git/f", "__MACOSX/g", "bee/__MACOSX/h")
    assert found(tmp_path) == [
        ("z.jpg", None),
        ("ape/x", 0),
        ("bee/B.jpg", 1),
        ("bee/b.jpg", 1),
        ("bee/deep/ape/c.jpg", 1),
        ("caf\udce9/e.jpg", 2),
        ("other/d.jpg", None),
    ]
    assert Collection([tmp_path], CLASSES).truth() == (["ape", "bee", r"caf\xe9"], ["other"])
    assert Collection([tmp_path / "bee"], CLASSES).truth() == ([], ["deep"])


def test_links_that_lead_back_or_to_themselves_end(tmp_path: Path) -> None:
    fill(tmp_path, "ape/a", "bee/b")
    (tmp_path / "ape" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("ape")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "nothing").symlink_to("nowhere")
    assert found(tmp_path) == [("nothing", None), ("self", None), ("again/a", None), ("bee/b", 1)]


def test_a_folder_deeper_than_python_recurses_is_walked(tmp_path: Path) -> None:
    fill(tmp_path, "d/" * 150 + "a")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(list(Collection([tmp_path], CLASSES))) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_what_is_named_twice_and_what_the_command_writes_is_read_once_or_not_at_all(tmp_path: Path) -> None:
    fill(tmp_path, "a", "sub/b", "sub/c", "out.json", "out.json.partial")
    named = (tmp_path / "sub" / "c", tmp_path, tmp_path / "sub", tmp_path / "sub" / "c")
    assert [name for name, _ in found(*named, outputs=(tmp_path / "out.json",))] == ["sub/c", "a", "sub/b"]


def test_a_name_that_is_not_there_and_a_run_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "run/best.safetensors", "run/a.jpg")
    for path, message in (
        (tmp_path / "none", "none: No such file"),
        (tmp_path / "run" / "a.jpg" / "b", "Not a directory"),
        (tmp_path / "run", "is a run, not images; --with"),
        (tmp_path / "run" / "best.safetensors", "is a run, not images"),
    ):
        with pytest.raises(UsageError, match=message):
            check_images([path])


def reasons(collection: Collection) -> dict[str, str]:
    read = {os.path.basename(file.path).decode(): why for file, why in read_ahead(collection, 4)}
    return {name: why for name, why in read.items() if isinstance(why, str)}


def test_what_is_no_image_has_a_reason_and_nothing_blocks(tmp_path: Path) -> None:
    fill(tmp_path, "empty.jpg")
    (tmp_path / "good.jpg").write_bytes(photo(1))
    (tmp_path / "half.jpg").write_bytes(photo(1)[:500])
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        found = reasons(Collection([tmp_path, Path("/dev/zero"), Path("/dev/tty")], CLASSES))
    assert found.pop("half.jpg")
    assert found == {
        "empty.jpg": "the file is empty",
        "fifo": "not a regular file",
        "socket": "not a regular file",
        "zero": "not a regular file",
        "tty": "not a regular file",
        "self": "a link to nothing",
        "lost": "a link to nothing",
    }


def test_what_may_not_be_read_has_a_reason() -> None:
    with as_nobody() as folder:
        (folder / "mine").write_bytes(photo(1))
        (folder / "mine").chmod(0)
        assert reasons(Collection([folder], CLASSES)) == {
            "mine": "Permission denied",
            "private": "it cannot be listed: Permission denied",
            "read-only": "the file is empty",
        }


def test_files_are_read_a_few_ahead_and_their_pixels_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1, 256, 256))
    taken = 0

    def endless() -> Iterator[ImageFile]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageFile(os.fsencode(tmp_path / "a.jpg"))

    tracemalloc.start()
    try:
        reads = read_ahead(endless(), 8)
        for number in range(1, 301):
            assert next(reads)[1].shape == (256, 256, 3)  # type: ignore[union-attr]
            assert taken <= number + 8
        reads.close()
        assert tracemalloc.get_traced_memory()[1] < 40 * 256 * 256 * 3
    finally:
        tracemalloc.stop()


def test_closed_amid_large_images_it_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1, 2000, 2000))
    threads = threading.active_count()
    reads = read_ahead((ImageFile(os.fsencode(tmp_path / "a.jpg")) for _ in range(100)), 8)
    next(reads)
    assert threading.active_count() > threads
    reads.close()
    assert threading.active_count() == threads, "one that is in OpenCV as Python ends aborts the process"
