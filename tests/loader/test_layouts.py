"""Photo collections as they are distributed, in small: the same names, the same nesting."""

import logging
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from common import ranges
from common.errors import BadImage, UsageError
from common.wire import messages
from loader.cli.pack_command import main
from loader.cli.serve_command import main as serve
from loader.dataset import Dataset
from loader.packing import discover
from loader.packing.pack import PackOptions, pack
from loader.packing.sources import FolderSource, Source
from tests.support.ilsvrc_archives import make_archives
from tests.support.photo_tree import make_tree, photo

TENCH, SHARK, FOX = "n01440764", "n01484850", "n02119789"
WORDS = {TENCH: "tench, Tinca tinca", SHARK: "great white shark, man-eater", FOX: "kit fox, Vulpes macrotis"}
TRUTH = [FOX, TENCH, TENCH, SHARK]


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return root


def kaggle(root: Path) -> Path:
    pictures = "ILSVRC/Data/CLS-LOC"
    train = {f"{pictures}/train/{wnid}/{wnid}_{n}.JPEG": photo(n) for wnid in WORDS for n in range(2)}
    val = {f"{pictures}/val/ILSVRC2012_val_{n:08}.JPEG": photo(10 + n) for n in range(1, 5)}
    solution = [f"ILSVRC2012_val_{n:08},{wnid} 85 1 499 272 {wnid} 1 2 3 4 " for n, wnid in enumerate(TRUTH, 1)]
    return write(
        root,
        {
            **train,
            **val,
            f"{pictures}/test/ILSVRC2012_test_00000001.JPEG": photo(1),
            "ILSVRC/Annotations/CLS-LOC/train/a.xml": "<annotation/>",
            "LOC_val_solution.csv": "\r\n".join(["ImageId,PredictionString", *reversed(solution), ""]),
            "LOC_train_solution.csv": "ImageId,PredictionString\n",
            "LOC_synset_mapping.txt": "".join(f"{wnid} {words}\n" for wnid, words in WORDS.items()),
        },
    )


def tiny(root: Path) -> Path:
    train = {f"train/{wnid}/images/{wnid}_{n}.JPEG": photo(n) for wnid in WORDS for n in range(2)}
    boxes = {f"train/{wnid}/{wnid}_boxes.txt": f"{wnid}_0.JPEG\t0\t10\t63\t58\n" for wnid in WORDS}
    val = {f"val/images/val_{n}.JPEG": photo(10 + n) for n in range(4)}
    rows = [f"val_{n}.JPEG\t{wnid}\t0\t32\t44\t62\n" for n, wnid in enumerate(TRUTH)]
    return write(
        root,
        {
            **train,
            **boxes,
            **val,
            "val/val_annotations.txt": "".join(rows),
            "test/images/test_0.JPEG": photo(1),
            "wnids.txt": "\n".join([FOX, TENCH, SHARK]),
            "words.txt": "n00001740\tentity\n" + "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()),
        },
    )


def checked(sources: dict[str, Source], first_val: str) -> None:
    """Train and val of the six and four images, labelled, named and read as they were written."""
    train, val = (pickle.loads(pickle.dumps(sources[split])) for split in ("train", "val"))
    assert train.classes == val.classes == tuple(WORDS)
    assert dict(train.words) == dict(val.words) == WORDS
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [val.classes[label] for label in val.labels] == TRUTH
    assert train.name(5).startswith("train/n02119789/")
    assert (val.name(0), val.name(3)[-6]) == (first_val, str(int(first_val[-6]) + 3))
    assert train.read(3) == photo(1)
    assert len({val.read(item) for item in range(4)}) == 4


@pytest.mark.parametrize("inner", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_ilsvrc_is_read_from_any_of_its_folders(inner: str, tmp_path: Path) -> None:
    folder = kaggle(tmp_path) / inner
    if inner == "ILSVRC/Data":
        checked(discover.sources(folder / "CLS-LOC" / ".." / "CLS-LOC"), "val/ILSVRC2012_val_00000001.JPEG")
    checked(discover.sources(folder), "val/ILSVRC2012_val_00000001.JPEG")


def test_a_flat_validation_set_takes_its_labels_from_the_devkit_too(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "photos") / "ILSVRC" / "Data" / "CLS-LOC"
    (tmp_path / "photos" / "LOC_val_solution.csv").unlink()
    with pytest.raises(UsageError, match=r"LOC_val_solution\.csv or ILSVRC2012_devkit_t12\.tar\.gz, .* are neither in"):
        discover.sources(folder)
    ids = {1: SHARK, 2: FOX, 3: TENCH}
    archives = make_archives(tmp_path / "archives", ids, [2, 3, 3, 1])
    (archives / "ILSVRC2012_devkit_t12.tar.gz").rename(folder / "ILSVRC2012_devkit_t12.tar.gz")
    checked(discover.sources(folder), "val/ILSVRC2012_val_00000001.JPEG")


def test_tiny_imagenet_is_read_as_it_is_distributed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checked(discover.sources(tiny(tmp_path)), "val/val_0.JPEG".replace("val/", "images/"))
    assert f"{tmp_path}/test: left out" in caplog.text
    (tmp_path / "val" / "val_annotations.txt").unlink()
    for wnid in WORDS:
        write(tmp_path, {f"val/{wnid}/images/{wnid}.JPEG": photo(3)})
    (tmp_path / "val" / "images").rename(tmp_path / "elsewhere")
    assert list(discover.sources(tmp_path)["val"].labels) == [0, 1, 2], "sorted into classes, as many have it"


@pytest.mark.parametrize(
    ("made", "spoil", "message"),
    [
        (kaggle, ("LOC_val_solution.csv", "ImageId,PredictionString\n"), "does not say of which class ILSVRC2012_val_"),
        (kaggle, ("LOC_val_solution.csv", f"ILSVRC2012_val_00000001,{FOX} 1\n"), "does not say of .*_00000002"),
        (tiny, ("val/val_annotations.txt", "\0" * 99), "val_annotations.txt does not say of which class val_0.JPEG is"),
        (
            tiny,
            ("val/val_annotations.txt", "".join(f"val_{n}.JPEG\tn9\n" for n in range(4))),
            "class 'n9' is not among the training set's 3 classes",
        ),
    ],
)
def test_a_list_of_labels_that_does_not_fit_is_one_line(
    made: Callable[[Path], Path], spoil: tuple[str, str], message: str, tmp_path: Path
) -> None:
    write(made(tmp_path), dict([spoil]))
    with pytest.raises(UsageError, match=message):
        discover.sources(tmp_path)


@pytest.mark.parametrize("names", [("data_batch_1", "batches.meta", "test_batch"), ("train", "meta", "test")])
def test_cifar_for_python_is_told_from_the_version_that_is_read(names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, {name: pickle.dumps({"data": b""}) for name in names})
    with pytest.raises(UsageError, match=r"holds pickles, .* Fetch the binary version, cifar-10-binary\.tar\.gz"):
        discover.sources(tmp_path)


def test_folders_of_no_picture_are_no_classes_and_a_tar_agrees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = make_tree(tmp_path / "photos", 6, 3)
    for name in ("train/aaa-empty", "train/__MACOSX", "train/.ipynb_checkpoints", "val/zzz-empty"):
        (tree / name).mkdir()
    hidden = ("train/__MACOSX/._00000.jpg", "train/__MACOSX/x.jpg", "train/.ipynb_checkpoints/x.jpg", "train/ape/._a")
    write(tree, dict.fromkeys(hidden, b"no picture"))
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tree, arcname=".")
    with caplog.at_level(logging.WARNING):
        folder = discover.sources(tree)
    assert f"{tree}/train/aaa-empty: no image, so no class; left out" in caplog.text
    assert f"{tree}/train/__MACOSX: left out" in caplog.text
    for sources in (folder, discover.sources(tmp_path / "photos.tar")):
        assert sources["train"].classes == ("ape", "bee", "cat")
        assert list(sources["train"].labels) == [0, 0, 1, 1, 2, 2]
        assert list(sources["val"].labels) == [0, 1, 2]


def test_what_packing_says_of_classes(tmp_path: Path) -> None:
    """A class of which no image could be decoded is named; --info has sizes, and names in words."""
    folder = write(tiny(tmp_path / "tiny"), {f"train/{TENCH}/images/{TENCH}_{n}.JPEG": b"" for n in range(2)})
    write(folder, {f"train/{SHARK}/images/more.JPEG": photo(7), f"val/images/val_{1}.JPEG": b""})
    packed = CliRunner().invoke(main, [str(folder), str(tmp_path / "data"), "--jobs", "1"])
    assert packed.exit_code == 0, packed.output
    assert f"train: no image of class {TENCH} could be decoded; the label stays, without records" in packed.output
    assert "val: no picture" not in packed.output, "one of two was decoded"
    info = CliRunner().invoke(main, ["--info", str(tmp_path / "data")]).output
    assert f"classes     3: {TENCH} ({WORDS[TENCH]}), {SHARK} ({WORDS[SHARK]}), " in info
    assert f"records     from 0 of {TENCH} ({WORDS[TENCH]}) to 3 of {SHARK} ({WORDS[SHARK]})" in info
    with Dataset(tmp_path / "data" / "train.lmdb") as train:
        assert train.classes == tuple(WORDS), "the name stays the wnid"


class Named:
    """One image, and classes of any names."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes, self.words, self.labels = classes, dict[str, str](), [0]

    def __len__(self) -> int:
        return 1

    def name(self, item: int) -> str:
        return str(item)

    def path(self, item: int) -> bytes:
        return self.name(item).encode()

    def read(self, item: int) -> bytes:
        return photo(item)


REFUSED = [
    (("a" * 257,), "has 257 characters, more than 256"),
    (tuple(map(str, range(65_537))), "65,537 classes are more than 65,536"),
    (tuple(f"{n:04}" + "\u00e9" * 200 for n in range(4000)), "names take 1,636,000 bytes, more than 1,044,480"),
    (("ape", "b\x1b[31mee"), "is empty or has control characters"),
    (("ape\nbee",), "is empty or has control characters"),
    (("ape", "bee", "ape"), "two classes are called 'ape'"),
]


@pytest.mark.parametrize(("classes", "reason"), REFUSED)
def test_class_names_that_no_loader_can_serve_are_refused_before_anything_is_written(
    classes: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"train: .*{reason}.*, which no loader could serve"):
        pack({"train": Named(classes)}, tmp_path / "data", PackOptions(1))
    assert not (tmp_path / "data").exists()


def test_a_loader_refuses_to_start_with_names_that_were_packed_once_and_cannot_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(ranges, "class_names_fault", lambda _: None)
        pack({"train": Named(("ape", "b\nee"))}, tmp_path, PackOptions(1))
    started = CliRunner().invoke(serve, ["--data", str(tmp_path), "--bind", "tcp://127.0.0.1:*", "--no-restart"])
    assert started.exit_code == 1
    assert "train.lmdb cannot be served: the class name 'b\\nee' is empty or has control characters" in started.output


@pytest.mark.parametrize(
    "classes",
    [
        ("a" * 256, "\u732b" * 256, "caf\\xe9", "with space"),
        tuple(f"{n:011}" for n in range(65_280)),
        tuple(f"{n:04}" + "\u00e9" * 100 for n in range(4990)),
    ],
)
def test_names_that_are_not_refused_fit_into_the_message_that_carries_them(classes: tuple[str, ...]) -> None:
    assert ranges.class_names_fault(classes) is None
    numbers = (1 << 62, b"s" * 16, b"i" * 8, (1 << 32) - 1, list(classes), b"d" * 16, "x" * 256)
    message = messages.Welcome(*numbers, 4096, 1 << 16, 4096, (1 << 31) - 1, (1 << 31) - 1, b"n" * 16, 4096, 1 << 40)
    assert messages.decode(messages.encode(message), payloads=1) == message


def test_whatever_lies_among_the_pictures_is_skipped_by_name_and_never_blocks(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train/ape/photo.jpg": photo(1)}) / "train" / "ape"
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    (folder / "lost").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "socket", 0o140600)
    source = FolderSource(tmp_path / "train")
    reasons = {}
    for item in range(len(source)):
        try:
            source.read(item)
        except BadImage as error:
            reasons[source.name(item).removeprefix("train/ape/")] = str(error)
    odd = dict.fromkeys(("fifo", "socket", "zero"), "not a regular file")
    assert reasons == odd | dict.fromkeys(("loop", "lost"), "a link to nothing")


@contextmanager
def as_nobody() -> Iterator[None]:
    """For root, who may read everything."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_what_this_user_may_not_read_is_skipped_by_name_or_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = write(Path(folder), {"train/ape/private.jpg": photo(1), "train/bee/1.jpg": photo(2)}) / "train"
        os.chmod(root / "ape" / "private.jpg", 0)
        with as_nobody():
            source = FolderSource(root)
            with pytest.raises(BadImage, match="Permission denied"):
                source.read(0)
            assert source.read(1) == photo(2)
        os.chmod(root / "bee", 0)
        with as_nobody(), pytest.raises(UsageError, match="train/bee cannot be listed: Permission denied"):
            FolderSource(root)
        os.chmod(root / "bee", 0o755)
