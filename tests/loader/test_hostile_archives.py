"""Tars and devkits made to take memory or to raise: one line each, in little memory."""

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from common.errors import UsageError
from loader.packing import discover
from tests.support.ilsvrc_archives import make_archives, tar_of, unpack
from tests.support.photo_tree import photo

PEAK_BYTES = 100 << 20
WNIDS = {1: "n01440764", 2: "n01443537"}


def header(kind: bytes, size: int, name: str = "train/ape/1.jpg") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def record(key: str, value: str) -> str:
    rest = f" {key}={value}\n"
    size = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return f"{size}{rest}"


def extended(*records: str) -> bytes:
    body = "".join(records).encode()
    return (
        header(tarfile.XHDTYPE, len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0") + header(tarfile.REGTYPE, 3)
    )


NAME = header(b"L", 20, "././@LongLink") + b"train/ape/2.jpg".ljust(512, b"\0")
HOSTILE = {
    "long name": header(b"L", 6 << 30),
    "long link": header(b"K", 6 << 30),
    "attributes": header(b"x", 6 << 30),
    "global attributes": header(b"g", 6 << 30),
    "names in a row": NAME * 3000,
    "negative size": header(b"0", -512),
    "negative size of a name": header(b"L", -1024),
    "negative size among attributes": extended(record("size", "-1536")),
    "sparse": header(tarfile.GNUTYPE_SPARSE, 512),
    "sparse by attributes": extended(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0")) + b"0\n" * 4096,
    "a name of no bytes": extended(record("path", "\udcff".encode(errors="surrogatepass").decode("latin-1"))),
}


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_make_no_sense_are_one_line(name: str, tmp_path: Path) -> None:
    with open(tmp_path / "photos.tar", "wb") as file:
        file.write(tar_of({"train/ape/0.jpg": photo(1)})[:-10240] + HOSTILE[name])
        file.truncate(7 << 30)
    with little_memory(), pytest.raises(UsageError, match="photos.tar") as raised:
        discover.sources(tmp_path / "photos.tar")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_archives(tmp_path_factory.mktemp("archives") / "imagenet", WNIDS, [1, 2])
    unpack(folder / "ILSVRC2012_devkit_t12.tar.gz", folder)
    return folder


def zeros(*, plain: bool) -> bytes:
    """A devkit whose ground truth is half a gigabyte of zeros."""
    name = b"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    file = io.BytesIO()
    with gzip.open(file, "wb", 1) as packed:
        packed.write(header(b"0", 500 << 20, name.decode()) if plain else header(b"L", 500 << 20))
        for _ in range(500):
            packed.write(bytes(1 << 20))
    return file.getvalue()


@pytest.mark.parametrize("plain", [False, True])
def test_a_devkit_of_half_a_gigabyte_of_zeros_is_one_line(archives: Path, plain: bool, tmp_path: Path) -> None:
    for path in archives.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(zeros(plain=plain))
    with little_memory(), pytest.raises(UsageError, match="524,288,000 bytes"):
        discover.sources(tmp_path)


def mat(value: object) -> bytes:
    file = io.BytesIO()
    savemat(file, {"synsets": value})
    return file.getvalue()


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512), "version 7.3"),
        (mat(7), "not an array of structures"),
        (
            mat({"ILSVRC2012_ID": 1, "WNID": "n01440764", "words": "tench"}),
            "line 2 is 2, which is not a class in data/meta.mat",
        ),
        (mat({"ILSVRC2012_ID": np.nan, "WNID": "n01440764", "words": "tench"}), "names no class"),
        ("folder", "ILSVRC2012_devkit_t12.tar.gz is missing"),
        ("loop", "ILSVRC2012_devkit_t12.tar.gz is missing"),
        ("/dev/zero", "ILSVRC2012_devkit_t12.tar.gz is missing"),
    ],
)
def test_a_devkit_with_another_meta_mat_is_one_line(
    archives: Path, meta: bytes | str, reason: str, tmp_path: Path
) -> None:
    for path in archives.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (data / truth).write_bytes((archives / "ILSVRC2012_devkit_t12" / "data" / truth).read_bytes())
    if isinstance(meta, bytes):
        (data / "meta.mat").write_bytes(meta)
    elif meta == "folder":
        (data / "meta.mat").mkdir()
    else:
        (data / "meta.mat").symlink_to("meta.mat" if meta == "loop" else meta)
    with pytest.raises(UsageError, match=reason):
        discover.sources(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_archive_that_is_no_regular_file_is_one_line_and_never_blocks(kind: str, tmp_path: Path) -> None:
    for name in ("ILSVRC2012_img_train.tar", "photos.tar"):
        if kind == "pipe":
            os.mkfifo(tmp_path / name)
        else:
            (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(UsageError, match="not a regular file|neither a folder nor a regular file"):
            discover.sources(tmp_path if name.startswith("ILSVRC") else tmp_path / name)
