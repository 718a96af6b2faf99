"""Files that a user names: whole or not at all, links followed, devices and FIFOs written to, never replaced."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.cli.outputs import STDOUT, refuse_unwritable, written
from common.errors import AlexNetError, OutputError, UsageError
from loader.dataset import Dataset
from tests.support.nobody import as_nobody
from tests.support.trained_nets import save_net

BIN = Path(sys.executable).parent


def write(path: Path, text: str = "new\n") -> None:
    refuse_unwritable(path, "--out")
    with written(path) as file:
        file.write(text)


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    for name in ("there", "new"):
        refuse_unwritable(tmp_path / name, "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"


def write_half(path: Path, error: BaseException) -> None:
    with written(path) as file:
        file.write("half")
        raise error


def test_a_file_that_was_not_finished_is_not_there_and_what_was_there_before_is(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    for error, message in ((KeyboardInterrupt(), None), (OSError(28, "no room"), "there cannot be written: no room")):
        with pytest.raises((KeyboardInterrupt, AlexNetError), match=message):
            write_half(tmp_path / "there", error)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_a_link_stays_and_what_it_leads_to_is_replaced_with_its_rights(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "target"
    for name in ("link", "link to link"):
        (tmp_path / name).symlink_to("far/target" if name == "link" else "link")
    write(tmp_path / "link", "made\n")  # it led to nothing
    assert target.read_text() == "made\n"
    target.chmod(0o600)
    write(tmp_path / "link to link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "link to link").is_symlink()
    assert target.read_text() == "new\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "link", "link to link", "target"]


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    writer = threading.Thread(target=write, args=(fifo,))
    writer.start()
    assert fifo.read_text() == "new\n"
    writer.join()
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def device(folder: Path, minor: int) -> Path:
    """A node of our own of /dev/null (3) or /dev/full (7); skips the test if it cannot be made."""
    path = folder / f"device-{minor}"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("rb").close()
    except OSError as error:
        pytest.skip(f"a device cannot be made here: {error.strerror}")
    return path


def test_a_device_is_written_to(tmp_path: Path) -> None:
    write(sink := device(tmp_path, 3))
    with pytest.raises(AlexNetError, match="device-7 cannot be written: No space left on device"):
        write(full := device(tmp_path, 7))
    assert stat.S_ISCHR(sink.stat().st_mode)
    assert stat.S_ISCHR(full.stat().st_mode)


def test_what_stands_for_stdout_is_stdout(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from common.cli.outputs import written
with written(Path(sys.argv[1])) as file:
    file.write("new\\n")
print("last")
"""
    for name in ("-", "/dev/stdout", "/dev/stderr"):
        with (tmp_path / "out").open("wb") as out:
            streams = {"stdout": out, "stderr": out if name == "/dev/stderr" else None}
            subprocess.run([sys.executable, "-c", code, name], check=True, **streams)  # type: ignore[call-overload]
        assert (tmp_path / "out").read_text() == "new\nlast\n"
    assert not Path("-").exists()


def test_a_stdout_that_is_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="stdout cannot be written"):
        write(STDOUT)


def test_what_cannot_be_written_is_refused_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = {
        tmp_path: "it is a folder",
        tmp_path / "none" / "x": "No such file",
        tmp_path / "file" / "x": "Not a dir",
    }
    for path, reason in refused.items():
        with pytest.raises(UsageError, match=rf"{path} cannot be written: {reason}.*\(--json\)"):
            refuse_unwritable(path, "--json")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="it is not a regular file"):
        refuse_unwritable(tmp_path / "fifo", "--out", as_file=True)


def test_what_this_user_may_not_write_is_refused_at_the_beginning(nobodys: Path) -> None:
    for path in (nobodys / "read-only", nobodys / "private" / "x"):
        with pytest.raises(UsageError, match=rf"{path} cannot be written: Permission denied \(--json\)"):
            refuse_unwritable(path, "--json")


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder with things that the user who runs this test, nobody, may not read or write."""
    with as_nobody() as folder:
        yield folder


@pytest.fixture(scope="module")
def net(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Dataset(packed / "val.lmdb") as dataset:
        return save_net(tmp_path_factory.mktemp("net"), dataset.classes, np.zeros((256, 256, 3), np.float32))


def test_an_evaluation_that_cannot_write_one_file_writes_the_others_and_stdout_holds_what_was_sent_there_alone(
    packed: Path, net: Path, tmp_path: Path
) -> None:
    os.mkfifo(fifo := tmp_path / "ready")
    serve = ["alexnet-loader", "--data", packed, "--workers", "1", "--bind", "tcp://127.0.0.1:*", "--ready-file", fifo]
    evaluate = ["alexnet-evaluate", net, "--cpu", "--threads", "1", "--limit", "8", "--views", "1"]
    full = device(tmp_path, 7)
    service = subprocess.Popen([*map(str, [BIN / "alexnet-loader", *serve[1:]])], stderr=subprocess.DEVNULL)
    try:
        options = ["--loader", fifo.read_text().strip(), "--json", full, "--predictions", "-"]
        command = [*map(str, [BIN / "alexnet-evaluate", *evaluate[1:], *options])]
        evaluated = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    finally:
        service.terminate()
        service.wait()
    assert evaluated.returncode == 1
    assert [line[:10] for line in evaluated.stdout.splitlines()] == ['{"record":'] * 8
    assert "val: 8 of 40 images" in evaluated.stderr
    last = f"alexnet-evaluate: error: {full} cannot be written: No space left on device"
    assert evaluated.stderr.splitlines()[-1] == last
    assert not (tmp_path / "-").exists()


def test_a_ready_file_that_cannot_be_written_is_refused_before_a_worker_starts(packed: Path, tmp_path: Path) -> None:
    refused = subprocess.run(
        [BIN / "alexnet-loader", "--data", packed, "--ready-file", "/none/x"], capture_output=True, text=True
    )
    last = "alexnet-loader: error: /none/x cannot be written: No such file or directory (--ready-file)\n"
    assert (refused.returncode, refused.stderr) == (2, last)
