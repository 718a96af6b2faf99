"""alexnet-evaluate --features on a real loader service, against the reference in float64."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from common.errors import UsageError
from common.images import jpeg
from loader.dataset import Dataset
from tests.support.bad_records import with_records
from tests.support.full_disk import FullDisk
from tests.support.processes import LoaderProcess
from tests.support.trained_nets import SMALL, plain_features, save_net
from trainer.cli.evaluate_command import main
from trainer.evaluation.evaluate import features_of
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.features import Written

CLASSES = ("ape", "bee", "cat")  # not those of the served data: features are of any data set
MEAN_HWC = np.full((256, 256, 3), 110, np.float32)

Features = Callable[..., Written]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_net(tmp_path_factory.mktemp("net"), CLASSES, MEAN_HWC)


@pytest.fixture(scope="module")
def data(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record 5 of train is no image."""
    return with_records(packed, tmp_path_factory.mktemp("data") / "data", {5: b"no picture"})


@pytest.fixture(scope="module")
def loader(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LoaderProcess(data, tmp_path_factory.mktemp("loader"), workers=1) as service:
        yield service


@pytest.fixture
def features(loader: LoaderProcess, net: Path, tmp_path: Path) -> Features:
    def features(**options: Any) -> Written:
        given: dict[str, Any] = {"checkpoints": (net,), "features": "fc7", "out": tmp_path / "f.npy"}
        given |= {"cpu": True, "threads": 1, "loaders": (loader.endpoint,), "batch_size": 16}
        return features_of(EvaluateOptions(**(given | options)))

    return features


def pictures(data: Path, split: str, records: list[int]) -> tuple[list[np.ndarray], list[int]]:
    with Dataset(data / f"{split}.lmdb") as dataset:
        labels, jpegs = zip(*(dataset.read(record) for record in records), strict=True)
    return [jpeg.decode(each, np.empty((256, 256, 3), np.uint8)) for each in jpegs], list(labels)


@pytest.mark.parametrize(("layer", "kind"), [("fc6", "halves"), ("fc7", "one-device")])
def test_features_are_the_reference_s_in_the_order_of_records(
    features: Features, data: Path, net: Path, tmp_path: Path, layer: str, kind: str
) -> None:
    written = features(features=layer, net=kind)
    of_all, labels = pictures(data, "val", list(range(40)))
    expected = plain_features(net, of_all, MEAN_HWC, layer)
    rows = np.load(tmp_path / "f.npy")
    assert rows.dtype == np.float32
    assert rows.shape == (40, 2 * 40) == (written.rows, written.units)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert 0 < (rows > 0).mean() < 1, "after ReLU, and alive"
    assert np.load(tmp_path / "f.labels.npy").tolist() == labels
    assert np.load(tmp_path / "f.records.npy").tolist() == list(range(40))
    with Dataset(data / "val.lmdb") as dataset:
        names = [dataset.name(record).decode() for record in range(40)]
    assert json.loads((tmp_path / "f.names.json").read_text()) == names
    assert len(list(tmp_path.iterdir())) == 4
    assert f"f.npy: {layer} of 40 images, 80 units each" in written.text()


def test_of_a_trial_s_pictures_the_rows_are_in_the_order_of_records_too(
    features: Features, data: Path, net: Path, tmp_path: Path
) -> None:
    features(limit=21)
    records = np.load(tmp_path / "f.records.npy").tolist()
    assert len(records) == 21
    assert records == sorted(set(records)) != list(range(21))
    chosen, labels = pictures(data, "val", records)
    expected = plain_features(net, chosen, MEAN_HWC, "fc7")
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert np.load(tmp_path / "f.labels.npy").tolist() == labels


def test_a_limit_beyond_the_split_is_all_of_it(features: Features, tmp_path: Path) -> None:
    assert features(limit=1000).rows == 40
    assert np.load(tmp_path / "f.records.npy").tolist() == list(range(40))


def test_a_bad_record_s_row_is_no_number(features: Features, tmp_path: Path) -> None:
    features(split="train")
    rows, labels = np.load(tmp_path / "f.npy"), np.load(tmp_path / "f.labels.npy")
    assert np.isnan(rows).all(axis=1).nonzero()[0].tolist() == [5]
    assert np.isnan(rows).any(axis=1).nonzero()[0].tolist() == [5]
    assert (labels == -1).nonzero()[0].tolist() == [5]
    assert np.load(tmp_path / "f.records.npy").tolist() == list(range(150))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "fc8"}, "no layer fc8 with features; recipe source has fc6 and fc7"),
        ({"features": None}, "--features and --out go together"),
        ({"out": None}, "--features and --out go together"),
        ({"out": Path("f.txt")}, "it is a FILE.npy"),
        ({"out": Path("/nowhere/f.npy")}, r"/nowhere/f.npy cannot be written.*--out"),
        ({"json": Path("j")}, "--json does not go with --features"),
        ({"predictions": Path("p")}, "--predictions does not go with --features"),
        ({"ilsvrc": Path("s")}, "--ilsvrc does not go with --features"),
        ({"devkit": Path("d")}, "--devkit does not go with --features"),
        ({"skipped": Path("s")}, "--skipped does not go with --features"),
        ({"weights": "1"}, "--weights does not go with --features"),
        ({"checkpoints": (Path("a"), Path("b"))}, "are of one checkpoint, not of 2"),
    ],
)
def test_what_makes_no_features_is_refused(features: Features, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        features(**options)


def test_features_that_one_half_alone_has_are_had_from_the_undivided_net(features: Features, tmp_path: Path) -> None:
    fc6, fc7, fc8 = SMALL.fc
    apart = save_net(tmp_path / "net", CLASSES, MEAN_HWC, replace(SMALL, fc=(fc6, replace(fc7, reads="own"), fc8)))
    with pytest.raises(UsageError, match="do not exchange after fc6.*--net one-device"):
        features(checkpoints=(apart,), features="fc6")
    features(checkpoints=(apart,), features="fc6", net="one-device", limit=1)


def test_a_disk_that_is_too_small_is_one_line_and_leaves_no_file(
    loader: LoaderProcess, net: Path, tmp_path: Path
) -> None:
    with FullDisk(tmp_path / "disk", kib=40) as disk:  # 150 rows of 80 units are 48,000 bytes
        out = disk.folder / "f.npy"
        asked = [str(net), "--features", "fc7", "--out", str(out), "--split", "train"]
        ended = CliRunner().invoke(main, [*asked, "--cpu", "--threads", "1", "--loader", loader.endpoint])
        assert ended.exit_code == 1, ended.stderr
        assert ended.stderr.splitlines()[-1].endswith("f.npy cannot be written: No space left on device")
        assert list(disk.folder.iterdir()) == []
