"""A refusal by the system is one line with file and reason and an exit code; only bugs are tracebacks."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import zmq
from click.testing import CliRunner, Result

from common.cli import log as logs
from common.errors import DatasetError
from loader.cli.keys_command import keys
from loader.cli.pack_command import main as pack
from loader.packing.dataset_writer import Writer
from tests.support.full_disk import FullDisk
from tests.support.nobody import as_nobody
from tests.support.small_lmdb import progress
from trainer.cli.evaluate_command import main as evaluate
from trainer.cli.train_command import main as trainer


def refused_to_nobody(command: click.Command, options: str, tmp_path: Path) -> tuple[Result, Path]:
    """The end of `command` for a user who may not enter the folder `{private}` of its options; and that folder."""
    (file := tmp_path / "file").touch()
    CliRunner().invoke(command, options.format(private=file).split())  # imports what nobody may not read
    with as_nobody() as folder:
        private = folder / "private"
        return CliRunner().invoke(command, options.format(private=private).split()), private


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (pack, "{private}/S data"),
        (pack, "--info {private}/S"),
        (pack, "--demo {private}/S/data"),
        (keys, "{private}/keys"),
        (trainer, "--cpu --recipe {private}/mine.toml"),
        (trainer, "--cpu --init {private}/run"),
        (trainer, "--cpu --resume --run {private}/run"),
        (evaluate, "--cpu {private}/run"),
    ],
)
def test_what_this_user_may_not_read_is_one_line_that_names_it_and_exit_code_1_or_2(
    command: click.Command, options: str, tmp_path: Path
) -> None:
    refused, private = refused_to_nobody(command, options, tmp_path)
    assert refused.exit_code in (1, 2), refused.output
    assert refused.output.count("\n") == 1, refused.output
    assert re.search(rf"error: .*{private}.*Permission denied", refused.output), refused.output


def test_where_that_happened_is_told_if_asked_for(tmp_path: Path) -> None:
    refused, private = refused_to_nobody(pack, "--log-level debug {private}/S data", tmp_path)
    assert "Traceback" in refused.output
    assert refused.output.splitlines()[-1] == f"alexnet-pack: error: {private}/S: Permission denied"


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and last words of a command that `error` ends."""
    logs.setup("alexnet-x")
    with pytest.raises(SystemExit) as end, logs.errors_as_exit_codes("alexnet-x"):
        raise error
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a\nb"), 2, r"a\nb: No such file or directory"),
        (OSError(errno.EIO, "Input/output error", b"disk"), 1, "disk: Input/output error"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), 1, "a to b: Invalid cross-device link"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
        (zmq.ZMQError(errno.EMFILE), 1, "Too many open files"),
        (MemoryError(), 1, "not enough memory"),
        (MemoryError("38 GiB"), 1, "not enough memory: 38 GiB"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_an_error_of_the_system_is_one_line_and_an_exit_code(
    error: BaseException, code: int, words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "alexnet-x: interrupted\n" if words is None else f"alexnet-x: error: {words}\n"
    assert ended(error, capsys) == (code, told)


@pytest.mark.parametrize("bug", [KeyError("x"), zmq.ZMQError(zmq.EFSM), RecursionError(), AssertionError()])
def test_a_bug_stays_a_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)), logs.errors_as_exit_codes("alexnet-x"):
        raise bug


def test_a_full_disk_while_packing_is_called_that(tmp_path: Path) -> None:
    with FullDisk(tmp_path / "disk", kib=512) as disk, Writer(disk.folder / "train.lmdb") as writer:
        with pytest.raises(DatasetError, match="cannot be written: the disk is full, 0.. MiB are free; what is"):
            writer.commit(0, [bytes(100_000)] * 10, [], progress(0, 10))


def test_a_map_that_cannot_grow_is_an_error_that_says_so(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from loader import lmdb_file
from loader.meta import Identity, Progress
from loader.packing.dataset_writer import Writer
lmdb_file.SMALLEST_MAP = 1 << 20
identity = Identity(format=1, split="train", items=1000, source=b"", stored="", order_seed=0)
progress = Progress.at_start(identity, {})
writer = Writer(Path(sys.argv[1]))
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (8 << 20), -1))
for first in range(1000):
    writer.commit(first, [bytes(1 << 18)], [], progress)
"""
    grown = subprocess.run([sys.executable, "-c", code, tmp_path / "train.lmdb"], capture_output=True, text=True)
    assert "DatasetError: " in grown.stderr
    assert "cannot be written: not enough memory, or address space (ulimit -v), to map the file" in grown.stderr
