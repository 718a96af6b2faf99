"""Output never decides: real commands whose terminal, pipe, log or disk takes no line do all their work."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from loader.dataset import Dataset
from tests.support.full_disk import FullDisk, full_device
from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess, wait_for
from tests.support.reader import read
from tests.support.trainer_process import OPTIONS, start
from trainer.checkpoints import checkpoint

BIN = Path(sys.executable).parent
PACK = ["--demo", "--demo-train", "12", "--demo-val", "10", "--jobs", "1"]


def run(*command: object, **streams: Any) -> int:
    return subprocess.run([*map(str, command)], timeout=120, stdin=subprocess.DEVNULL, **streams).returncode


def shell(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command, BIN, *map(str, arguments)], timeout=120, capture_output=True, text=True
    )


@contextlib.contextmanager
def unread_pipe() -> Iterator[IO[bytes]]:
    """The end to write to of a pipe of 4 KiB that is full, and that nobody reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    with open(reader, "rb"), open(writer, "wb", buffering=0) as stream:
        yield stream


def is_packed(data: Path) -> bool:
    with Dataset(data / "train.lmdb") as train, Dataset(data / "val.lmdb") as val:
        return not any([*train.verify(), *val.verify()])


@pytest.mark.parametrize("streams", ["2>&- >&-", '2>"$3" | true'])
def test_packing_is_finished_whatever_becomes_of_its_lines(tmp_path: Path, streams: str) -> None:
    device = full_device(tmp_path)
    done = shell(
        f'"$0/alexnet-pack" "$1" {" ".join(PACK)} {streams}; exit "${{PIPESTATUS[0]}}"', tmp_path / "d", "", device
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert is_packed(tmp_path / "d")


def test_packing_to_a_pipe_that_nobody_reads_ends(tmp_path: Path) -> None:
    with unread_pipe() as pipe:
        assert run(BIN / "alexnet-pack", *PACK, tmp_path / "d", stdout=pipe, stderr=pipe) == 0
    assert is_packed(tmp_path / "d")


def trained(folder: Path) -> bool:
    state = checkpoint.load(checkpoint.newest(folder)).state
    return state.epoch == 1 and (folder / checkpoint.BEST).exists()


def test_trainings_whose_terminal_closes_or_whose_log_is_on_a_full_disk_go_on_and_are_saved(
    service: LoaderProcess, tmp_path: Path
) -> None:
    options = [*OPTIONS, "--epochs", "1", "--loader", service.endpoint, "--run"]
    master, terminal = pty.openpty()
    with FullDisk(tmp_path / "disk", 64) as disk, (disk.folder / "log").open("wb") as log, unread_pipe() as pipe:
        disk.fill()
        logging = subprocess.Popen([BIN / "alexnet-trainer", *options, tmp_path / "disked"], stdout=pipe, stderr=log)
        on_terminal = start(
            *options, "terminal", cwd=tmp_path, stderr=terminal,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )  # fmt: skip
        os.close(terminal)
        seen = b""
        while b"epoch 1/1  step" not in seen:
            seen += os.read(master, 4096)
        os.close(master)
        assert re.match("trained 1 epochs: validation", on_terminal.communicate(timeout=200)[0])
        assert (on_terminal.returncode, logging.wait(200)) == (0, 0)
    assert trained(tmp_path / "terminal")
    assert trained(tmp_path / "disked")


def test_a_service_whose_log_nobody_reads_serves_on_and_ends_on_sigterm(packed: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with unread_pipe() as pipe:
        command = [str(BIN / "alexnet-loader"), "--data", str(packed), "--workers", "1", "--ready-file", str(ready)]
        service = subprocess.Popen([*command, "--bind", "tcp://127.0.0.1:*"], stderr=pipe, stdin=subprocess.DEVNULL)
        try:
            wait_for("the service", ready.exists)
            for _ in range(3):
                assert len(read(ready.read_text().strip())) > 0
            service.terminate()
            assert service.wait(60) == 0
        finally:
            service.kill()
            service.wait()


def test_what_was_asked_for_and_cannot_be_written_is_one_line_and_exit_code_1(packed: Path, tmp_path: Path) -> None:
    device = full_device(tmp_path)
    asked = {
        "alexnet-pack": f"--info {packed}",
        "alexnet-trainer": "--show-recipe",
        "alexnet-loader": f"audit --data {packed} --epoch 0 --jobs 1",
        "alexnet-evaluate": "--help",
    }
    for name, options in asked.items():
        refused = shell(f'"$0/{name}" {options} >"$1"', device)
        assert refused.returncode == 1
        assert re.fullmatch(f"{name}.*: error: stdout cannot be written: No space left on device\n", refused.stderr)
        closed = shell(f'"$0/{name}" {options} | true; exit "${{PIPESTATUS[0]}}"')
        assert (closed.returncode, closed.stderr) in [(1, ""), (0, "")], "0 if the pipe took it before it closed"
    nowhere = shell('"$0/alexnet-trainer" --show-recipe >&-')
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "stdout cannot be written: Bad file descriptor" in nowhere.stderr


@pytest.mark.parametrize("streams", ["2>&- >&-", '2>"$1"', "2>&1 | true", '2>"$2"'])
def test_a_script_goes_on_whatever_becomes_of_its_lines_and_keeps_its_exit_code(tmp_path: Path, streams: str) -> None:
    script = f'PROGRAM=x; set -euo pipefail; source "{ROOT}/deploy/setup.sh"; say one; touch "$1"; fail 3 two'
    command = f"""bash -c '{script}' x "$3" {streams}; exit "${{PIPESTATUS[0]}}" """
    os.mkfifo(unread := tmp_path / "fifo")
    end = os.open(unread, os.O_RDWR)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(end, bytes(4096))
    done = shell(command, full_device(tmp_path), unread, tmp_path / "done")
    os.close(end)
    assert done.returncode == 3
    assert (tmp_path / "done").exists()


def test_a_script_s_lines_are_told() -> None:
    done = shell(f'set -euo pipefail; PROGRAM=x; source "{ROOT}/deploy/setup.sh"; say "a  line"; fail 3 why')
    program = re.escape(str(BIN.name))
    assert done.returncode == 3
    assert re.fullmatch(rf"{program}: a  line\n{program}: error: why\n", done.stderr)
