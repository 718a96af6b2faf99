"""alexnet-report with real loaders, trainers and a browser."""

import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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


def loaders_of(path: Path) -> list[int]:
    """Processes of the loaders that serve, or serve at, `path`."""
    lines = {entry.name: command_line(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return [int(pid) for pid, line in lines.items() if "serve_command" in line and f"{path}\0" in line]


@pytest.fixture(scope="module")
def whole(service: LoaderProcess, run: Path) -> Path:
    """A page with every part."""
    out = run.with_name("whole.html")
    ended = CliRunner().invoke(main, [str(run), "--loader", service.endpoint, "--out", str(out), *QUICK])
    assert ended.exit_code == 0, ended.output
    return out


def test_a_loader_gives_the_parts_that_need_images(whole: Path) -> None:
    page = ReadPage(whole)
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


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_it_without_a_message(whole: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900", f"--screenshot={shot}"]  # fmt: skip
    shown = subprocess.run([str(CHROMIUM), *options, whole.as_uri()], capture_output=True, text=True, timeout=120)
    assert shot.stat().st_size > 10_000, shown.stderr
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []


def test_its_own_loader_of_a_dataset_without_validation_leaves_out_the_answers_and_ends_with_it(
    run: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_LOADER_METRICS", "an option of the user's own loader")
    (data := tmp_path / "data").mkdir()
    (data / "train.lmdb").symlink_to(packed / "train.lmdb")
    out = tmp_path / "r.html"
    ended = CliRunner().invoke(main, [str(run), "--data", str(data), "--out", str(out), *QUICK])
    assert ended.exit_code == 0, ended.output
    page = ReadPage(out)
    assert "no val" in page.text
    assert set(page.ids) & IMAGE_PARTS == {"augmentations", "colours"}
    assert loaders_of(data) == []


SERVE = "import sys, time; from pathlib import Path; from trainer.reporting.own_loader import serving\n"
SERVE += "with serving(Path(sys.argv[1])) as endpoint: print(endpoint, flush=True); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_own_loader_does_not_outlive_it(number: signal.Signals, packed: Path, tmp_path: Path) -> None:
    report = subprocess.Popen([sys.executable, "-c", SERVE, str(packed)], stdout=subprocess.PIPE, text=True)
    with report:
        assert report.stdout is not None
        socket = Path(report.stdout.readline().strip().removeprefix("ipc://"))
        assert socket.is_socket()
        assert loaders_of(socket) != []
        report.send_signal(number)
    assert report.returncode == {signal.SIGTERM: 143}.get(number, -number)
    wait_for("the loader to end", lambda: not loaders_of(socket))
    assert not socket.parent.exists() or number == signal.SIGKILL
    shutil.rmtree(socket.parent, ignore_errors=True)


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


def test_a_net_of_other_classes_than_the_loader_s_has_no_answers(service: LoaderProcess, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "r.html"
    save_net(other, ("cat", "dog"), np.zeros((256, 256, 3), np.float32))
    log_step(other, 1)
    ended = CliRunner().invoke(main, [str(other), "--loader", service.endpoint, "--out", str(out), *QUICK])
    assert ended.exit_code == 0, ended.output
    page = ReadPage(out)
    assert "other classes than the loader serves" in page.text
    assert set(page.ids) & IMAGE_PARTS == {"augmentations", "colours"}


def test_a_page_that_is_watched_grows_reloads_itself_and_stops_with_its_run(run: Path, tmp_path: Path) -> None:
    watched, out = tmp_path / "run", tmp_path / "r.html"
    shutil.copytree(run, watched)

    def train() -> None:
        with (watched / FILE_NAME).open("a") as trainer:
            fcntl.flock(trainer, fcntl.LOCK_EX)
            begun.set()
            wait_for("the page", out.exists)
            pages.append(out.read_text())
            log_step(watched, 3)
            wait_for("the page to grow", lambda: out.read_text() != pages[0])

    begun, pages = threading.Event(), list[str]()
    with ThreadPoolExecutor() as threads:
        training = threads.submit(train)
        begun.wait()
        ended = CliRunner().invoke(main, [str(watched), "--watch", "--every", "0.1", "--out", str(out)])
        training.result()
    assert ended.exit_code == 0, ended.output
    assert "location.reload" in pages[0]
    assert ">training</td>" in pages[0]
    last = ReadPage(out)
    assert last.faults == []
    assert "location.reload" not in last.source
    assert ">ended</td>" in last.source


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
