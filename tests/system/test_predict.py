"""alexnet-predict: what alexnet-evaluate answers for the same images packed; outputs whole, and names as they are."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from common.imagenet.devkit import ORDER_SEED, shuffled
from loader.dataset import Dataset
from loader.packing import discover
from tests.support.full_disk import full_device
from tests.support.packing import pack_folder
from tests.support.photo_tree import make_tree, photo
from tests.support.processes import LoaderProcess, lines_but_progress
from tests.support.trained_nets import SMALL, save_net
from trainer.checkpoints import checkpoint
from trainer.cli.evaluate_command import main as evaluate_main
from trainer.cli.predict_command import main

FEW_PIXELS = replace(SMALL, input_size=67, crop=67)
CLASSES = ("ape", "bee", "cat", "dog", "eel", "fox")
LOCAL = ("--cpu", "--threads", "1")
HOSTILE = ("a\nb\x1b[2J.jpg", 'quote",comma.jpg', "cr\r.jpg", "not utf-8 \udcff.jpg", "\u202eright.jpg", " .jpg")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("nets")
    known = CLASSES, np.random.default_rng(0).uniform(100, 150, (256, 256, 3)).astype(np.float32), FEW_PIXELS
    return save_net(folder / "a", *known).parent, save_net(folder / "b", *known, seed=1).parent


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), *LOCAL])


def told(*arguments: object) -> dict[str, Any]:
    result = predict(*arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_answers_are_those_of_an_evaluation_of_the_same_images_packed(tmp_path: Path) -> None:
    tree, data = make_tree(tmp_path / "tree", 3, 15), tmp_path / "data"
    for index, (height, width) in enumerate(((700, 300), (256, 256), (90, 1000))):
        (tree / "val" / "bee" / f"large-{index}.png").write_bytes(photo(index + 500, height, width))
    pack_folder(tree, data, jobs=1)
    source = discover.sources(tree)["val"]
    names = [source.name(int(item)) for item in shuffled(len(source), ORDER_SEED)]
    with Dataset(data / "val.lmdb") as dataset:
        known = dataset.classes, dataset.mean_hwc, FEW_PIXELS
    nets = [save_net(tmp_path / name, *known, seed=seed) for seed, name in enumerate("ab")]
    lines, errors = tmp_path / "p.jsonl", tmp_path / "e.json"
    with LoaderProcess(data, tmp_path, 1) as service:
        asked = [*nets, "--weights", "1,3", "--loader", service.endpoint, "--predictions", lines, "--json", errors]
        evaluated = CliRunner().invoke(evaluate_main, [*map(str, asked), *LOCAL])
        assert evaluated.exit_code == 0, evaluated.output
    expected = [json.loads(line)["views"] for line in lines.read_text().splitlines()]
    together = json.loads(errors.read_text())["results"][-1]["views"]
    for views in ("1", "10"):
        ours = told(nets[0], tree / "val", "--with", nets[1], "--weights", "1,3", "--views", views)
        by_name = {os.path.relpath(entry["file"], tree): entry for entry in ours["files"]}
        assert len(by_name) == len(expected) == len(names) == 18
        for name, theirs in zip(names, expected, strict=True):
            likeliest, answer = by_name[name]["likeliest"], theirs[views]
            assert [one["class"] for one in likeliest] == [one["class"] for one in answer["likeliest"]]
            for one, other in zip(likeliest, answer["likeliest"], strict=True):
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
            assert by_name[name]["class"] == name.split("/")[1]
            assert by_name[name]["correct"] == (answer["rank"] == 1)
        assert ours["top1_error"] == together[views]["top1_error"]


def test_the_table_names_files_right_and_wrong_and_errors(nets: tuple[Path, Path], tmp_path: Path) -> None:
    likeliest = {}
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(photo(index))
        likeliest[index] = told(nets[0], tmp_path / f"{index}.jpg")["files"][0]["likeliest"][0]
    (root := tmp_path / "val").mkdir()
    for index, one in likeliest.items():
        name = one["class"] if index < 3 else CLASSES[(one["label"] + 1) % 6]
        (root / name).mkdir(exist_ok=True)
        (tmp_path / f"{index}.jpg").rename(root / name / f"{index}.jpg")
    (root / "other").mkdir()
    (root / "other" / "5.jpg").write_bytes(photo(5))
    (words := tmp_path / "words.txt").write_text("".join(f"{name}\tgreat {name}, {name}us\n" for name in CLASSES))
    result = predict(nets[0], root, "--top", "1", "--words", words)
    *rows, last = result.stdout.splitlines()
    cells = {row.split(".jpg")[0][-1]: row.split(".jpg")[1].split() for row in rows}
    for index, one in likeliest.items():
        verdict, great, name, share, _ = cells[str(index)]
        assert (verdict, great, name) == ("right" if index < 3 else "wrong", "great", one["class"])
        assert share == f"{100 * one['probability']:.1f}"
    assert cells["5"][0] == "great"
    assert last == "4 of 5 images in folders named like classes: top-1 error 25.0 %, top-5 error 0.0 %"
    assert "other: no class has this folder's name" in result.stderr
    likely = told(nets[0], root, "--words", words)["files"][0]["likeliest"][0]
    assert likely["words"] == f"great {likely['class']}, {likely['class']}us"
    words.write_text("n01440764 tench, Tinca tinca\n")
    assert "words.txt describes none of the classes, such as ape" in predict(nets[0], root, "--words", words).stderr


def test_names_are_escaped_on_a_terminal_and_true_in_json_and_csv(nets: tuple[Path, Path], tmp_path: Path) -> None:
    for name in HOSTILE:
        (tmp_path / name).write_bytes(photo(1))
    (tmp_path / "no\nimage").write_text("text")
    paths = sorted(os.fsencode(path) for path in tmp_path.iterdir())
    result = predict(nets[0], tmp_path)
    assert len(result.stdout.splitlines()) == len(HOSTILE)
    assert not {"\x1b", "\r", "\u202e"} & set(result.output)
    assert r"no\nimage: not recognised as an image" in result.stderr
    assert [os.fsencode(entry["file"]) for entry in told(nets[0], tmp_path)["files"]] == paths
    printed = predict(nets[0], tmp_path, "--csv", "-", "--json", tmp_path.parent / "names.json")
    predict(nets[0], tmp_path, "--csv", tmp_path.parent / "names.csv")
    for data in (printed.stdout_bytes, (tmp_path.parent / "names.csv").read_bytes()):
        header, *rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
        assert [os.fsencode(row[0]) for row in rows] == paths
        assert header == ["file", *(f"{of}_{k}" for k in range(1, 6) for of in ("class", "probability")), "error"]
        entries = json.loads((tmp_path.parent / "names.json").read_text())["files"]
        for row, entry in zip(rows, entries, strict=True):
            likeliest = [(one["class"], one["probability"]) for one in entry.get("likeliest", ())]
            assert [
                (name, float(share)) for name, share in zip(row[1:11:2], row[2:11:2], strict=True) if name
            ] == likeliest
            assert row[11] == entry.get("error", "")


def test_files_that_are_no_image_are_listed_and_the_exit_code_tells_if_all_are(
    nets: tuple[Path, Path], tmp_path: Path
) -> None:
    (photos := tmp_path / "photos").mkdir()
    for index in range(3):
        (photos / f"{index}.txt").write_text("text")
    out = tmp_path / "out.json"
    result = predict(nets[0], photos, "--json", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "alexnet-predict: error: of the 3 files none is an image that can be read"
    assert result.stderr.count("; left out") == 3
    found = json.loads(out.read_text())
    assert (found["images"], found["bad"], found["top1_error"]) == (0, 3, None)
    assert all("not recognised as an image" in entry["error"] for entry in found["files"])
    (photos / "good.jpg").write_bytes(photo(1))
    assert predict(nets[0], photos, "--batch-size", "1").exit_code == 0


def test_an_output_on_a_full_disk_costs_itself_alone(nets: tuple[Path, Path], tmp_path: Path) -> None:
    full = full_device(tmp_path)
    (tmp_path / "a.jpg").write_bytes(photo(1))
    result = predict(nets[0], tmp_path / "a.jpg", "--json", full, "--csv", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(f"error: {full} cannot be written: No space left on device")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2
    assert "a.jpg" in result.stdout


def test_what_cannot_be_predicted_says_why(nets: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (image := tmp_path / "a.jpg").write_bytes(photo(1))
    other = save_net(tmp_path / "other", ("x", "y"), np.zeros((256, 256, 3), np.float32)).parent
    whole = checkpoint.load(next(nets[0].iterdir()))
    wild = {name: weight * 1e30 for name, weight in whole.weights.items()}
    diverged = checkpoint.save(tmp_path, checkpoint.Checkpoint(whole.state, wild, {}, whole.mean_hwc))
    for asked, code, message in (
        ([nets[0], tmp_path / "empty"], 2, "there is no file in "),
        ([tmp_path / "empty", image], 2, "empty holds no checkpoint"),
        ([image, image], 1, "a.jpg .*; the run comes first, then images"),
        ([nets[0], nets[1]], 2, "is a run, not images; --with"),
        ([nets[0], image, "--with", other], 1, "know other classes: 6 and 2 of them"),
        ([nets[0], image, "--words", tmp_path / "none"], 2, r"none: No such file or directory \(--words\)"),
        ([diverged, image], 1, "answers with nan: training diverged"),
    ):
        result = predict(*asked)
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert re.search(f"error: .*{message}", result.stderr.splitlines()[-1]), result.stderr


def test_ctrl_c_ends_it_in_one_line_and_leaves_no_file(nets: tuple[Path, Path], tmp_path: Path) -> None:
    (photos := tmp_path / "photos").mkdir()
    (photos / "0.jpg").write_bytes(photo(0, 500, 500))
    for index in range(1, 5000):
        os.link(photos / "0.jpg", photos / f"{index}.jpg")
    program = [sys.executable, "-X", "importtime", "-m", "trainer.cli.predict_command"]
    command = [*program, nets[0], photos, *LOCAL, "--batch-size", "1"]
    with (tmp_path / "err").open("w+") as err, subprocess.Popen(
        [*map(str, command), "--json", str(tmp_path / "out.json")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert "0.jpg" in running.stdout.readline()
        assert (tmp_path / "out.json.partial").exists()
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
        lines = lines_but_progress((tmp_path / "err").read_text())
    said = [line for line in lines if not line.startswith("import time:")]
    assert (running.returncode, said) == (130, ["alexnet-predict: interrupted"])
    imported = {line.split()[-1] for line in lines} - {"interrupted"}
    assert ("torch.nn" in imported, "torch._dynamo" in imported) == (True, False), (
        "the compiler takes seconds to import"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "photos"]
