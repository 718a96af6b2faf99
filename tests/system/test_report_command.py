"""alexnet-report with real loaders, trainers and a browser."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from loader.dataset import Dataset
from tests.support.full_disk import FullDisk
from tests.support.pages import ReadPage
from tests.support.processes import LoaderProcess, command_line, wait_for
from tests.support.trained_nets import save_net
from trainer.cli.report_command import main
from trainer.training.metrics import FILE_NAME

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IMAGE_PARTS = {"answers-1", "mistakes-1", "confusions-1", "augmentations", "colours"}
QUICK = ("--cpu", "--threads", "1", "--pictures", "3", "--mistakes", "2", "--train-images", "40")


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small net on `packed`, with two steps logged."""
    folder = tmp_path_factory.mktemp("report") / "run"
    with Dataset(packed / "train.lmdb") as dataset:
        save_net(folder, dataset.classes, dataset.mean_hwc)
    log_step(folder, 1)
    log_step(folder, 2)
    return folder


def log_step(folder: Path, step: int) -> None:
    line = {"kind": "step", "step": step, "epoch": 0, "loss": 2.0, "train_error": 0.5, "images_per_s": 9.0}
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(line) + "\n")


def command(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [Path(sys.executable).parent / "alexnet-report", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def loaders_of(data: Path) -> list[int]:
    """Processes of the loaders that serve `data`."""
    lines = {entry.name: command_line(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return [int(pid) for pid, line in lines.items() if f"serve_command\0--data\0{data}\0" in line]


@pytest.fixture
def data(packed: Path, tmp_path: Path) -> Iterator[Path]:
    """`packed` under a name of its own, by which its loader is found."""
    (folder := tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (folder / f"{split}.lmdb").symlink_to(packed / f"{split}.lmdb")
    yield folder
    wait_for("the loader to end", lambda: not loaders_of(folder))


def test_a_loader_gives_the_parts_that_need_images(service: LoaderProcess, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    ended = CliRunner().invoke(main, [str(run), "--loader", service.endpoint, "--out", str(out), *QUICK])
    assert ended.exit_code == 0, ended.output
    page = ReadPage(out)
    assert page.faults == []
    assert set(page.ids) >= IMAGE_PARTS
    assert "left-out" not in page.ids
    alts = " ".join(page.images)
    assert len(re.findall("validation image", alts)) == 3
    assert len(re.findall("near training image", alts)) == 3 * 6
    assert len(re.findall("taken for", alts)) == 2
    assert len(re.findall("the image in epoch", alts)) == 20
    assert re.search(r"\d+\.\d % of 40 validation images are answered wrong", page.text)
    assert "the nearest of 40 training images" in page.text


def test_data_are_served_by_a_loader_of_its_own_which_ends_with_it(run: Path, data: Path, tmp_path: Path) -> None:
    done = command(run, "--data", data, "--out", tmp_path / "r.html", *QUICK)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert set(ReadPage(tmp_path / "r.html").ids) >= IMAGE_PARTS
    assert loaders_of(data) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_loader_ends_however_it_ends_and_nothing_is_half_written(
    number: signal.Signals, run: Path, data: Path, tmp_path: Path
) -> None:
    reporting = command(run, "--data", data, "--out", tmp_path / "r.html", *QUICK)
    wait_for("the loader", lambda: loaders_of(data) or reporting.poll() is not None)
    reporting.send_signal(number)
    _, err = reporting.communicate(timeout=60)
    assert reporting.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number), err
    wait_for("the loader to end", lambda: not loaders_of(data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    if number != signal.SIGKILL:
        assert list(Path(os.environ.get("TMPDIR", "/tmp")).glob(f"alexnet-report-*/{data.name}")) == []


def test_a_loader_that_is_not_there_costs_its_parts_and_the_exit_code(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    nobody = ["--loader", "tcp://127.0.0.1:9", "--loader-timeout", "0.2"]
    ended = CliRunner().invoke(main, [str(run), *nobody, "--out", str(out), *QUICK])
    assert ended.exit_code == 1
    assert "is alexnet-loader running there" in ended.stderr.splitlines()[-1]
    page = ReadPage(out)
    assert {"error", "filters-1", "left-out"} <= set(page.ids)
    assert page.text.count("is alexnet-loader running there") == 2


def test_data_that_cannot_be_served_are_refused_with_the_loader_s_own_reason(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = CliRunner().invoke(main, [str(run), "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "r.html")])
    assert ended.exit_code == 2
    assert "did not start" in ended.stderr
    assert "holds neither" in ended.stderr
    assert not (tmp_path / "r.html").exists()


def test_a_net_of_other_classes_and_a_dataset_without_validation_are_told_apart(
    run: Path, packed: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    save_net(other, ("cat", "dog"), np.zeros((256, 256, 3), np.float32))
    log_step(other, 1)
    (half := tmp_path / "half").mkdir()
    (half / "train.lmdb").symlink_to(packed / "train.lmdb")
    (whole := tmp_path / "whole").mkdir()
    for split in ("train", "val"):
        (whole / f"{split}.lmdb").symlink_to(packed / f"{split}.lmdb")
    for data, reason in ((half, "no val"), (whole, "other classes than the loader serves")):
        out = tmp_path / f"{data.name}.html"
        ended = CliRunner().invoke(main, [str(other), "--data", str(data), "--out", str(out), *QUICK])
        assert ended.exit_code == 0, ended.output
        page = ReadPage(out)
        assert reason in page.text
        assert {"augmentations", "colours"} <= set(page.ids)


def test_a_page_that_is_watched_grows_reloads_itself_and_stops_with_its_run(run: Path, tmp_path: Path) -> None:
    watched, out = tmp_path / "run", tmp_path / "r.html"
    shutil.copytree(run, watched)
    with (watched / FILE_NAME).open("a") as trainer:
        fcntl.flock(trainer, fcntl.LOCK_EX)
        watching = command(watched, "--watch", "--every", "0.1", "--out", out)
        wait_for("the page", lambda: out.exists() or watching.poll() is not None)
        first = out.read_text()
        assert "location.reload" in first
        assert ">training</td>" in first
        log_step(watched, 3)
        wait_for("the page to grow", lambda: out.read_text() != first)
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    last = ReadPage(out)
    assert last.faults == []
    assert "location.reload" not in last.source
    assert "ended" in last.text


def test_ctrl_c_leaves_a_watched_page_that_reloads_itself_no_more(run: Path, tmp_path: Path) -> None:
    watched, out = tmp_path / "run", tmp_path / "r.html"
    shutil.copytree(run, watched)
    with (watched / FILE_NAME).open("a") as trainer:
        fcntl.flock(trainer, fcntl.LOCK_EX)
        watching = command(watched, "--watch", "--out", out)
        wait_for("the page", lambda: out.exists() or watching.poll() is not None)
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert err.splitlines()[-1] == "alexnet-report: interrupted"
    assert "location.reload" not in out.read_text()


def test_a_full_disk_leaves_the_page_that_was_there(run: Path, tmp_path: Path) -> None:
    with FullDisk(tmp_path / "disk", 64) as disk:
        out = disk.folder / "r.html"
        out.write_text("the page of yesterday")
        disk.fill()
        ended = CliRunner().invoke(main, [str(run), "--out", str(out)])
        assert ended.exit_code == 1
        assert ended.stderr.splitlines()[-1].endswith("r.html cannot be written: No space left on device")
        assert out.read_text() == "the page of yesterday"
        assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", "r.html"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_it_without_a_message(service: LoaderProcess, run: Path, tmp_path: Path) -> None:
    out, shot = tmp_path / "r.html", tmp_path / "shot.png"
    CliRunner().invoke(main, [str(run), "--loader", service.endpoint, "--out", str(out), *QUICK])
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900", f"--screenshot={shot}"]  # fmt: skip
    shown = subprocess.run([str(CHROMIUM), *options, out.as_uri()], capture_output=True, text=True, timeout=120)
    assert shot.stat().st_size > 10_000, shown.stderr
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
