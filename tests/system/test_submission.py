"""alexnet-evaluate --ilsvrc, from the archives of ILSVRC2012 in small to the file: each line against what the image's
own file gives, worked out plainly."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UsageError
from common.imagenet.devkit import ORDER_SEED, Devkit, shuffled
from common.images import jpeg
from common.images.stored import stored_jpeg
from common.spec import StreamInfo
from loader.dataset import Dataset
from loader.packing import discover
from loader.packing.pack import PackOptions, pack
from tests.support.bad_records import with_records
from tests.support.ilsvrc_archives import make_archives, unpack
from tests.support.photo_tree import photo
from tests.support.processes import LoaderProcess
from tests.support.trained_nets import plain_probabilities, save_net
from trainer.evaluation.evaluate import evaluate_checkpoints
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.submission import Submission

NAMES = tuple(f"n0{n}" for n in range(7))
ID_OF = dict(zip(NAMES, (40, 3, 900, 17, 5, 2, 31), strict=True))  # not in the order of the names
IDS = {class_id: name for name, class_id in ID_OF.items()}
TRUTH = [ID_OF[NAMES[n * n % 7]] for n in range(1, 25)]
SKIPPED = (5, 18)
NO_ANSWER = [2, 3, 5, 17, 31]

Submit = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the archives and what they pack to."""
    folder = tmp_path_factory.mktemp("ilsvrc")
    make_archives(folder / "imagenet", IDS, TRUTH, undecodable=SKIPPED)
    _, val = pack(discover.sources(folder / "imagenet"), folder / "data", PackOptions(jobs=1))
    assert (val.records, val.skipped) == (22, 2)
    return folder


@pytest.fixture(scope="module")
def net(folder: Path) -> Path:
    with Dataset(folder / "data" / "val.lmdb") as dataset:
        return save_net(folder / "net", dataset.classes, dataset.mean_hwc)


@pytest.fixture(scope="module")
def expected(folder: Path, net: Path) -> dict[int, list[int]]:
    """The line of each image that can be decoded, by its number."""
    with Dataset(folder / "data" / "val.lmdb") as dataset:
        mean_hwc: Any = dataset.mean_hwc
    numbers = [n for n in range(1, len(TRUTH) + 1) if n not in SKIPPED]
    stored = [stored_jpeg(photo(100 + n - 1))[0] for n in numbers]
    pictures = [jpeg.decode(data, np.empty((256, 256, 3), np.uint8)) for data in stored]
    probabilities = plain_probabilities(net, pictures, mean_hwc)[10]
    return {
        n: [ID_OF[NAMES[label]] for label in row.argsort()[::-1][:5]]
        for n, row in zip(numbers, probabilities, strict=True)
    }


@pytest.fixture(scope="module")
def loader(folder: Path) -> Iterator[LoaderProcess]:
    with LoaderProcess(folder / "data", folder, workers=1) as service:
        yield service


@pytest.fixture
def submit(loader: LoaderProcess, folder: Path, net: Path, tmp_path: Path) -> Submit:
    def submit(**options: Any) -> list[list[int]]:
        given: dict[str, Any] = {
            "checkpoints": (net,), "cpu": True, "threads": 1, "batch_size": 16, "loaders": (loader.endpoint,),
            "devkit": folder / "imagenet", "skipped": folder / "data" / "skipped.jsonl",
        }  # fmt: skip
        evaluate_checkpoints(EvaluateOptions(ilsvrc=tmp_path / "s.txt", **(given | options)))
        return [[int(word) for word in line.split(" ")] for line in (tmp_path / "s.txt").read_text().splitlines()]

    return submit


@pytest.mark.parametrize("form", ["archive", "unpacked"])
def test_each_line_is_of_the_picture_with_its_number_also_where_packing_left_some_out(
    submit: Submit, folder: Path, expected: dict[int, list[int]], form: str, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    devkit = folder / "imagenet" / "ILSVRC2012_devkit_t12.tar.gz"
    if form == "unpacked":
        unpack(devkit, tmp_path)
        devkit = tmp_path / "ILSVRC2012_devkit_t12"
    assert len({tuple(line) for line in expected.values()}) > 10, "lines tell pictures apart"
    listed = (folder / "data" / "skipped.jsonl").read_text()
    (tmp_path / "list").write_text('{"split": "train", "name": "n00/n00_3.JPEG"}\n' + listed)
    lines = submit(devkit=devkit, skipped=tmp_path / "list")
    assert lines == [expected.get(n, NO_ANSWER) for n in range(1, len(TRUTH) + 1)]
    assert "2 without an answer; 2 3 5 17 31 stands for each" in caplog.text


def test_a_bad_record_has_a_line_too(
    submit: Submit, folder: Path, net: Path, expected: dict[int, list[int]], tmp_path: Path
) -> None:
    data = with_records(folder / "data", tmp_path / "data", {7: b"no picture any more"}, split="val")
    with LoaderProcess(data, tmp_path, workers=1) as service:
        lines = submit(loaders=(service.endpoint,))
    of_all = [expected.get(n, NO_ANSWER) for n in range(1, len(TRUTH) + 1)]
    (bad,) = [n for n, (line, other) in enumerate(zip(lines, of_all, strict=True), 1) if line != other]
    assert lines[bad - 1] == NO_ANSWER
    with Dataset(folder / "data" / "val.lmdb") as dataset:
        assert dataset.read(7)[1] == stored_jpeg(photo(100 + bad - 1))[0]


def test_pictures_that_packing_left_out_must_be_named(submit: Submit, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"serves 22 images, not the 24 of ILSVRC2012; if packing left some out, .*"):
        submit(skipped=None)
    listed = tmp_path / "list"
    for text, message in [
        ("", "the 22 images that the loader serves and the 0 of .*list are not the 24"),
        ("no list\n", "list is not a skipped.jsonl"),
        ('{"name": "x"}\n', "list is not a skipped.jsonl"),
        ('{"split": "val", "name": "ILSVRC2012_val_00000025.JPEG"}\n', "is none of the 24"),
        ('{"split": "val", "name": "ape/1.jpg"}\n', "is none of the 24"),
    ]:
        listed.write_text(text)
        with pytest.raises(UsageError, match=message):
            submit(skipped=listed)
    with pytest.raises(UsageError, match="nothing cannot be read: No such file"):
        submit(skipped=tmp_path / "nothing")


def test_a_list_of_other_pictures_is_found_out_by_their_classes(submit: Submit, tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{n:08}.JPEG" for n in (1, 2)]
    (tmp_path / "list").write_text("".join(f'{{"split": "val", "name": "{name}"}}\n' for name in names))
    with pytest.raises(UsageError, match=r"record \d+ is not of ILSVRC2012_val_\d{8}.JPEG's class"):
        submit(skipped=tmp_path / "list")
    assert not (tmp_path / "s.txt").exists()


def test_a_data_set_that_is_no_ilsvrc_is_refused(submit: Submit, tmp_path: Path, packed: Path) -> None:
    with Dataset(packed / "val.lmdb") as dataset:
        other = save_net(tmp_path / "other", dataset.classes, dataset.mean_hwc)
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        with pytest.raises(UsageError, match=r"the 10 classes, such as '\w+', are not those of ILSVRC2012; serve"):
            submit(checkpoints=(other,), loaders=(service.endpoint,))


@pytest.mark.parametrize(
    ("served", "known", "message"),
    [
        (NAMES[:6], NAMES, "the 6 classes are not those"),
        ((*NAMES, "ape"), NAMES, "the 8 classes, such as 'ape', are not those"),
        (NAMES[:4], NAMES[:4], "the 4 classes are not those"),  # a line names five
    ],
)
def test_classes_that_are_not_quite_those_of_the_devkit_are_refused(
    served: tuple[str, ...], known: tuple[str, ...], message: str
) -> None:
    info = StreamInfo(7, served, np.zeros((256, 256, 3), np.float32), b"", "")
    devkit = Devkit({name: ID_OF[name] for name in known}, tuple(known[n % len(known)] for n in range(7)))
    with pytest.raises(UsageError, match=message):
        Submission.of(info, devkit, None)


def test_pictures_are_numbered_from_one_to_the_last_of_the_ground_truth() -> None:
    devkit = Devkit(ID_OF, NAMES)
    numbers = [devkit.number_of(f"val/ILSVRC2012_val_{n:08}.JPEG") for n in (0, 1, len(NAMES), len(NAMES) + 1)]
    assert numbers == [0, 1, len(NAMES), 0]
    assert devkit.number_of("ILSVRC2012_val_00000001.JPEG.txt") == 0


def test_the_order_of_packing_never_changes_since_what_is_packed_is_answered_by_it() -> None:
    assert shuffled(12, ORDER_SEED).tolist() == [11, 3, 9, 6, 5, 0, 10, 2, 8, 4, 7, 1]
    assert sorted(shuffled(1000, ORDER_SEED).tolist()) == list(range(1000))


def test_a_devkit_that_cannot_be_read_is_named(submit: Submit, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is missing: the ILSVRC2012 devkit"):
        submit(devkit=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12\.tar\.gz is missing"):
        submit(devkit=tmp_path)
    (tmp_path / "file").write_bytes(b"no archive")
    with pytest.raises(UsageError, match="file cannot be read"):
        submit(devkit=tmp_path / "file")
