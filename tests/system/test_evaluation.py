"""alexnet-evaluate on a real loader service: its answers are those computed plainly from the packed records."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from common.errors import CheckpointError, LoaderTimeout, NoSuchSplit, UsageError
from common.images import jpeg
from loader.dataset import Dataset
from loader.workers import sampler
from tests.support.bad_records import with_records
from tests.support.processes import LoaderProcess, wait_for
from tests.support.trained_nets import SMALL, plain_probabilities, save_net
from trainer.checkpoints import checkpoint
from trainer.cli.evaluate_command import main
from trainer.evaluation.evaluate import evaluate_checkpoints
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.results import EvaluationReport

Evaluate = Callable[..., EvaluationReport]
OTHER_CROP = replace(SMALL, crop=227)


@pytest.fixture(scope="module")
def checkpoints(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two nets for the packed data; they differ in weights, crop and mean image."""
    folder = tmp_path_factory.mktemp("nets")
    with Dataset(packed / "val.lmdb") as dataset:
        classes, mean_hwc = dataset.classes, dataset.mean_hwc
    first = save_net(folder / "first", classes, mean_hwc)
    return [first, save_net(folder / "second", classes, mean_hwc[::-1] * np.float32(0.5), OTHER_CROP, seed=1)]


@pytest.fixture
def evaluated(service: LoaderProcess) -> Evaluate:
    def evaluated(*checkpoints: Path, **options: Any) -> EvaluationReport:
        given: dict[str, Any] = {"cpu": True, "threads": 1, "loaders": (service.endpoint,), "batch_size": 16}
        return evaluate_checkpoints(EvaluateOptions(checkpoints=checkpoints, **(given | options)))

    return evaluated


@pytest.fixture(scope="module")
def expected(packed: Path, checkpoints: list[Path]) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """By checkpoint and number of views: labels, and probabilities in float64, of all records of val."""
    with Dataset(packed / "val.lmdb") as dataset:
        records = [dataset.read(record) for record in range(dataset.records)]
        mean_hwc: Any = dataset.mean_hwc
    pictures = [jpeg.decode(data, np.empty((256, 256, 3), np.uint8)) for _, data in records]
    labels = np.array([label for label, _ in records])
    means = [mean_hwc, mean_hwc[::-1] * np.float32(0.5)]
    return {
        (which, views): (labels, probabilities)
        for which, path in enumerate(checkpoints)
        for views, probabilities in plain_probabilities(path, pictures, means[which]).items()
    }


def errors(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float, float]:
    of_label = probabilities[np.arange(len(labels)), labels]
    rank = (probabilities >= of_label[:, None]).sum(1)
    return float((rank > 1).mean()), float((rank > 5).mean()), float(np.log(of_label).mean())


def told(report: EvaluationReport) -> dict[tuple[str, int], tuple[float, float | None, float]]:
    return {
        (name, views): (of.top1_error, of.top5_error, -of.loss)
        for name, by_views in report.rows
        for views, of in by_views.items()
    }


def test_errors_are_those_of_ten_crops_cut_by_hand_and_probabilities_averaged(
    evaluated: Evaluate, checkpoints: list[Path], expected: Any, tmp_path: Path
) -> None:
    report = evaluated(*checkpoints, weights="1,3", predictions=tmp_path / "p.jsonl", confused=1000)
    plain = {
        (str(path), views): errors(*expected[which, views])
        for which, path in enumerate(checkpoints)
        for views in (1, 10)
    }
    for views in (1, 10):
        (labels, first), (_, second) = expected[0, views], expected[1, views]
        plain["all together", views] = errors(labels, (first + 3 * second) / 4)
    assert told(report).keys() == plain.keys()
    for row, figures in told(report).items():
        assert figures == pytest.approx(plain[row], abs=1e-4), row
    assert len({figures[2] for figures in plain.values()}) == 6, "every row is another"
    assert report.weights == [0.25, 0.75]
    assert report.images == report.records == 40
    likeliest = ((first + 3 * second) / 4).argmax(1)
    predicted = [
        json.loads(line)["views"]["10"]["likeliest"][0] for line in (tmp_path / "p.jsonl").read_text().splitlines()
    ]
    assert [one["label"] for one in predicted] == likeliest.tolist(), "of all together"
    confused = {(pair.label, pair.taken_for) for pair in report.confusions}
    assert confused == {(label, k) for label, k in zip(labels.tolist(), likeliest.tolist(), strict=True) if label != k}


def test_errors_do_not_depend_on_batches_or_on_how_the_net_is_placed(
    evaluated: Evaluate, checkpoints: list[Path]
) -> None:
    alike = told(evaluated(checkpoints[0]))
    of_some: tuple[dict[str, Any], ...] = ({"batch_size": 7, "views": "10"}, {"net": "one-device"}, {"views": "1"})
    for options in of_some:
        other = told(evaluated(checkpoints[0], **options))
        assert other
        for row, figures in other.items():
            assert figures == pytest.approx(alike[row], abs=1e-5), options


def test_the_predictions_name_every_record_once_in_order_and_agree_with_the_errors(
    evaluated: Evaluate, checkpoints: list[Path], expected: Any, packed: Path, tmp_path: Path
) -> None:
    report = evaluated(checkpoints[0], predictions=tmp_path / "p.jsonl", json=tmp_path / "m.json", confused=1000)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == list(range(40))
    for views in (1, 10):
        labels, probabilities = expected[0, views]
        for line, label, row in zip(lines, labels, probabilities, strict=True):
            answer = line["views"][str(views)]
            assert (line["label"], line["class"]) == (label, report.classes[label])
            assert answer["probability"] == pytest.approx(row[label], rel=1e-3)
            assert [one["label"] for one in answer["likeliest"]] == row.argsort()[::-1][:5].tolist()
            assert [one["class"] for one in answer["likeliest"]] == [report.classes[k] for k in row.argsort()[::-1][:5]]
            assert [one["probability"] for one in answer["likeliest"]] == pytest.approx(
                np.sort(row)[::-1][:5], rel=1e-3
            )
    with Dataset(packed / "val.lmdb") as dataset:
        assert [line["name"] for line in lines] == [dataset.name(record).decode() for record in range(40)]
    wrong = [line for line in lines if line["views"]["10"]["rank"] != 1]
    wrong.sort(key=lambda line: -line["views"]["10"]["likeliest"][0]["probability"])
    mistakes = json.loads((tmp_path / "m.json").read_text())["mistakes"]
    assert [(one["record"], one["name"]) for one in mistakes] == [(one["record"], one["name"]) for one in wrong[:5]]
    assert f"most confident mistakes\n  {wrong[0]['name']}: {wrong[0]['class']} taken for " in report.text()
    (result,) = json.loads((tmp_path / "m.json").read_text())["results"]
    assert len(wrong) == round(result["views"]["10"]["top1_error"] * 40) > 0
    assert sum(pair.count for pair in report.confusions) == len(wrong)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "m.json", tmp_path / "p.jsonl"]


def test_a_share_of_the_pictures_is_taken_for_a_trial(
    evaluated: Evaluate, checkpoints: list[Path], tmp_path: Path
) -> None:
    report = evaluated(checkpoints[0], limit=21, predictions=tmp_path / "p.jsonl", views="1")
    assert (report.images, report.records) == (21, 40)
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 21
    assert "val: 21 of 40 images of 10 classes" in report.text()


def test_any_split_is_evaluated(evaluated: Evaluate, checkpoints: list[Path]) -> None:
    assert evaluated(checkpoints[0], split="train", views="1").images == 150


def test_a_bad_record_is_left_out_and_named(
    checkpoints: list[Path], packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = with_records(packed, tmp_path / "data", {3: b"no picture", 11: b"neither"})
    with LoaderProcess(data, tmp_path, workers=1) as service:
        options = EvaluateOptions(
            checkpoints=(checkpoints[0],), cpu=True, threads=1, loaders=(service.endpoint,), views="1", split="train",
            predictions=tmp_path / "p.jsonl",
        )  # fmt: skip
        report = evaluate_checkpoints(options)
    assert (report.bad, report.images) == ([3, 11], 148)
    assert "train: 148 of 150 images of 10 classes, 2 corrupt records left out" in report.text()
    with Dataset(packed / "train.lmdb") as dataset:
        file = dataset.name(11).decode()
    assert f"record 11 ({file}) of train is corrupt, and left out" in caplog.messages
    assert report.to_dict()["bad_files"][1] == file
    assert f"record 11 ({file}) of train is corrupt, another takes its place: Not a JPEG" in service.log.read_text()
    records = [json.loads(line)["record"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert records == [record for record in range(150) if record not in (3, 11)]


def test_what_stands_in_for_a_bad_record_does_not_count_beyond_the_limit(
    checkpoints: list[Path], packed: Path, tmp_path: Path
) -> None:
    at_limit = int(sampler.order(40, 0, 0)[20])
    data = with_records(packed, tmp_path / "data", {at_limit: b"no picture"}, split="val")
    with LoaderProcess(data, tmp_path, workers=1) as service:
        options = EvaluateOptions(
            checkpoints=(checkpoints[0],), cpu=True, threads=1, loaders=(service.endpoint,), views="1", limit=21
        )
        report = evaluate_checkpoints(options)
    assert (report.bad, report.images) == ([at_limit], 20)


def test_a_run_s_folder_means_its_best_or_the_newest_that_is_whole(
    evaluated: Evaluate, checkpoints: list[Path], packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Dataset(packed / "val.lmdb") as dataset:
        for step in (1, 2, 3):
            newest = save_net(tmp_path, dataset.classes, dataset.mean_hwc, seed=step, step=step)
    newest.write_bytes(newest.read_bytes()[:-1])
    ((name, _),) = evaluated(tmp_path, limit=1).rows
    assert name == str(tmp_path / "checkpoint-00000002.safetensors")
    assert f"{newest}: it is damaged" in caplog.text
    (tmp_path / "best.safetensors").write_bytes(checkpoints[0].read_bytes())
    ((name, _),) = evaluated(tmp_path, limit=1).rows
    assert name == str(tmp_path / "best.safetensors")


@pytest.mark.parametrize("options", [(), ("--features", "fc7", "--out", "fc7.npy")])
def test_a_net_that_answers_with_nan_is_no_result(
    service: LoaderProcess,
    checkpoints: list[Path],
    tmp_path: Path,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = checkpoint.load(checkpoints[0])
    large = {name: weight * 1e30 for name, weight in whole.weights.items()}  # finite, and right as far as a file goes
    path = checkpoint.save(tmp_path, replace(whole, weights=large))
    given = [str(path), "--cpu", "--threads", "1", "--loader", service.endpoint, *options]
    result = CliRunner().invoke(main, given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(r"error: .*(answers with nan|features are not finite): training diverged.*\n$", result.stderr)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_without_a_mean_image_takes_that_of_the_data(
    evaluated: Evaluate, checkpoints: list[Path], packed: Path, tmp_path: Path
) -> None:
    with Dataset(packed / "val.lmdb") as dataset:
        old = save_net(tmp_path, dataset.classes, None)
    ((_, old_figures),) = evaluated(old).rows
    ((_, figures),) = evaluated(checkpoints[0]).rows
    assert old_figures == figures


def test_networks_of_other_classes_are_refused(evaluated: Evaluate, checkpoints: list[Path], tmp_path: Path) -> None:
    few = save_net(tmp_path / "few", ("ape", "bee"), None)
    with pytest.raises(CheckpointError, match="know other classes: 10 and 2 of them"):
        evaluated(checkpoints[0], few)
    with pytest.raises(CheckpointError, match="was trained on other classes than the loader serves: 2 and 10 of them"):
        evaluated(few)
    renamed = save_net(tmp_path / "renamed", (*"abcdefghi", "j"), None)
    with pytest.raises(CheckpointError, match="class 0 is 'a' and '"):
        evaluated(renamed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "1"}, "--weights 1: there are 1 for 2 checkpoints"),
        ({"weights": "1,x"}, "--weights 1,x: they are numbers"),
        ({"weights": "0,0"}, "not all 0"),
        ({"weights": "1,-1"}, "they are 0 or more"),
        ({"weights": "1,nan"}, "they are 0 or more"),
        ({"weights": "1,inf"}, "they are 0 or more"),
        ({"skipped": Path("skipped.jsonl")}, "go with --ilsvrc"),
        ({"ilsvrc": Path("/nowhere/s.txt"), "devkit": Path("d")}, r"cannot be written: .* \(--ilsvrc\)"),
        ({"predictions": Path("/nowhere/p.jsonl")}, r"/nowhere/p.jsonl cannot be written: .* \(--predictions\)"),
        ({"json": Path("/")}, r"/ cannot be written: it is a folder \(--json\)"),
        ({"ilsvrc": Path("s.txt")}, "--ilsvrc needs --devkit"),
        ({"devkit": Path("d.tar.gz")}, "go with --ilsvrc"),
        ({"ilsvrc": Path("s.txt"), "devkit": Path("d.tar.gz"), "limit": 3}, "of all validation images"),
        ({"ilsvrc": Path("s.txt"), "devkit": Path("d.tar.gz"), "split": "train"}, "of all validation images"),
        ({"loaders": ("nowhere",)}, "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    evaluated: Evaluate, checkpoints: list[Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        evaluated(*checkpoints, **options)


def test_what_cannot_be_evaluated_says_why(
    evaluated: Evaluate, checkpoints: list[Path], packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint nowhere"):
        evaluated(Path("nowhere"))
    with pytest.raises(UsageError, match="holds no checkpoint"):
        evaluated(tmp_path)
    (tmp_path / "foreign").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="foreign: it is"):
        evaluated(tmp_path / "foreign")
    with pytest.raises(LoaderTimeout, match="is alexnet-loader running there"):
        evaluated(checkpoints[0], loaders=("tcp://127.0.0.1:9",), loader_timeout_s=0.5)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.lmdb").symlink_to(packed / "train.lmdb")
    with LoaderProcess(tmp_path / "data", tmp_path, workers=1) as service, pytest.raises(NoSuchSplit, match="no val"):
        evaluated(checkpoints[0], loaders=(service.endpoint,))


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli.evaluate_command", *map(str, arguments), "--cpu", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_a_table(service: LoaderProcess, checkpoints: list[Path]) -> None:
    out, err = command(*checkpoints, "--loader", service.endpoint, "--confused", "2", "--mistakes", "3").communicate(
        timeout=120
    )
    lines = out.splitlines()
    assert re.fullmatch(r"val: 40 images of 10 classes; [\d,]+ images/s, waiting for data [\d.]+ %", lines[0]), err
    assert re.fullmatch(r" +1 view +10 views", lines[2])
    assert re.fullmatch(r"( +top-1 error +95 % +top-5 error +log p){2}", lines[3])
    figures = r"( +\d+\.\d % +\d+\.\d\.\.\d+\.\d +\d+\.\d % +-\d+\.\d{3}){2}"
    for line, name in zip(lines[4:7], [*map(str, checkpoints), "all together"], strict=True):
        assert re.fullmatch(re.escape(name) + figures, line)
    assert lines[7:9] == ["", "most confused"]
    assert re.fullmatch(r"  \w+ taken for \w+: [\d.]+ % of \w+ \(\d+ of \d+\)", lines[9])
    assert lines[11:13] == ["", "most confident mistakes"]
    assert re.fullmatch(r"  \w+/\d{6}\.jpg: \w+ taken for \w+, [\d.]+ %", lines[13])
    assert len(lines) == 16


def test_the_command_prints_json_of_the_same_figures(
    service: LoaderProcess, checkpoints: list[Path], expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--loader", service.endpoint, "--json", "-", "--cpu", "--threads", "1"]
    ended = CliRunner().invoke(main, [str(checkpoints[0]), *options])
    assert ended.exit_code == 0, ended.output
    (result,) = json.loads(ended.stdout)["results"]
    for views in (1, 10):
        figures = [result["views"][str(views)][name] for name in ("top1_error", "top5_error", "log_probability")]
        assert figures == pytest.approx(errors(*expected[0, views]), abs=1e-4)
    assert list(tmp_path.iterdir()) == []


def test_a_ctrl_c_ends_the_command_in_one_line_and_leaves_no_file(
    checkpoints: list[Path], packed: Path, tmp_path: Path
) -> None:
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        service.signal(signal.SIGSTOP)  # so that it is sure to be in the midst of things
        evaluating = command(checkpoints[0], "--loader", service.endpoint, "--predictions", tmp_path / "p.jsonl")
        wait_for("the command to ask", lambda: sockets_of(evaluating.pid) > 0 or evaluating.poll() is not None)
        evaluating.send_signal(signal.SIGINT)
        out, err = evaluating.communicate(timeout=60)
        service.signal(signal.SIGCONT)
    assert (evaluating.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "alexnet-evaluate: interrupted"
    assert "Traceback" not in err
    assert not list(tmp_path.glob("p.jsonl*"))


def sockets_of(pid: int) -> int:
    """Connections over tcp that the process has."""
    try:
        targets = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:
        return 0
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    return sum(target == f"socket:[{inode}]" for target in targets for inode in inodes)
