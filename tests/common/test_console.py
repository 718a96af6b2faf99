"""The one place that writes to people: nothing of a terminal, a pipe or a file makes it fail or wait for long."""

import fcntl
import io
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli import console
from common.cli.console import Outlet, shown, shown_lines
from common.errors import OutputError, ReaderGone
from tests.support.full_disk import full_device

MISSING = re.compile(r"\((\d+) lines are missing here: they could not be written\)")
SMALL_PIPE = 4096


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """(to read from, to write to) a pipe that holds 4 KiB; a test may close the first itself."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    try:
        yield reader, writer
    finally:
        os.close(writer)
        if os.path.exists(f"/proc/self/fd/{reader}"):
            os.close(reader)


def read_lines(reader: int, until: str) -> list[str]:
    """Output up to the line `until`."""
    lines = []
    with open(reader, closefd=False, encoding="utf-8") as stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if lines[-1] == until:
                return lines
    raise AssertionError(f"{until} never came, but {lines}")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_is_read_comes_whole_and_in_order() -> None:
    with pipe() as (reader, writer):
        outlet = Outlet(writer)
        pid = os.fork()  # a reader beside, which takes its time
        if pid == 0:
            lines = read_lines(reader, "line 1999")
            os._exit(lines != [f"line {number}" for number in range(2000)])
        for number in range(2000):
            outlet.write(f"line {number}\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_says_later_how_many_lines_are_missing() -> None:
    with pipe() as (reader, writer):
        outlet = Outlet(writer)
        for number in range(20_000):
            outlet.write(f"line {number:50}\n")
        outlet.drain(0.01)
        text = ""
        while not (missing := MISSING.search(text)):
            text += os.read(reader, 1 << 16).decode()
        kept = 20_000 - int(missing[1])
        assert 0 < kept < 20_000
        assert text.splitlines()[:-1] == [f"line {number:50}" for number in range(kept)]
        outlet.write("the last\n")
        assert read_lines(reader, "the last") == ["the last"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_writes_its_own_lines_alone() -> None:
    with pipe() as (reader, writer):
        outlet = Outlet(writer)
        outlet.write("." * SMALL_PIPE * 2 + "\n")  # the parent's thread is at work, and holds some of it
        if (pid := os.fork()) == 0:
            outlet.write("the child's\n")
            outlet.drain()
            os._exit(0)
        assert sorted(read_lines(reader, "the child's")) == ["." * SMALL_PIPE * 2, "the child's"]
        os.waitpid(pid, 0)


def test_a_pipe_without_a_reader_is_no_error() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        outlet = Outlet(writer)
        for _ in range(100):
            outlet.write("nobody reads this\n")
        outlet.drain()


def test_a_full_device_is_no_error(tmp_path: Path) -> None:
    device = full_device(tmp_path)
    with device.open("w") as stream:
        outlet = Outlet(stream.fileno())
        outlet.write("too much\n")
        outlet.drain()


def test_lines_that_a_full_disk_refused_are_counted_when_it_takes_some_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, writer):
        outlet = Outlet(writer)
        target = os.dup(writer)
        os.dup2(os.open("/proc/self/exe", os.O_RDONLY), writer)  # refuses every write
        outlet.write("one\ntwo\n")
        outlet.write("three\n")
        outlet.drain()
        os.dup2(target, writer)
        os.close(target)
        outlet.write("four\n")
        assert read_lines(reader, "four") == ["(3 lines are missing here: they could not be written)", "four"]


def test_a_terminal_stopped_by_ctrl_s_holds_nobody_up_and_shows_all_after_ctrl_q() -> None:
    master, terminal = pty.openpty()
    outlet = Outlet(terminal)
    outlet.write("before\n")
    os.write(master, b"\x13")
    for number in range(2000):
        outlet.write(f"line {number}\n")
    os.write(master, b"\x11")
    assert read_lines(master, "line 1999")[-1] == "line 1999"
    os.close(master)
    outlet.write("the terminal is closed\n")
    outlet.drain()
    os.close(terminal)


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        outlet = Outlet(writer)
        for number in range(2000):
            outlet.write(f"line {number}\n")
        assert len(read_lines(reader, "line 1999")) == 2000


@given(st.text())
def test_nothing_that_controls_a_terminal_is_shown_and_all_else_is_as_it_was(text: str) -> None:
    assert all(unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") for each in shown(text))
    assert all(unicodedata.bidirectional(each) not in BIDI for each in shown(text))
    ordinary = "".join(each for each in text if shown(each) == each)
    assert shown(ordinary) == ordinary
    assert shown_lines(text).count("\n") == text.count("\n")
    assert shown_lines(text).replace("\n", "").replace("\t", "") == shown(text.replace("\n", "").replace("\t", ""))


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_what_controls_a_terminal_is_shown_as_its_code() -> None:
    assert shown("a\nb\x1b[2J\x9b1m\u202ec\udc80") == r"a\nb\x1b[2J\x9b1m\u202ec\udc80"


class Refusing(io.StringIO):
    """A stream that refuses everything, and is no terminal or not even that."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error

    def isatty(self) -> bool:
        raise self._error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed"), BrokenPipeError()])
def test_a_stream_that_refuses_is_no_error_for_what_only_tells(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("stderr", "stdout"):
        monkeypatch.setattr(sys, name, Refusing(error))
    console.tell("a line")
    console.say("a last line")
    assert not console.is_terminal(sys.stderr)
    with pytest.raises(ReaderGone if isinstance(error, BrokenPipeError) else OutputError):
        console.result("what was asked for")


def test_streams_that_are_not_there_are_no_error_for_what_only_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stderr", "stdout"):
        monkeypatch.setattr(sys, name, None)
    console.tell("a line")
    console.say("a last line")
    with pytest.raises(OutputError, match="stdout cannot be written"):
        console.result("what was asked for")


def test_letters_that_the_encoding_lacks_are_shown_as_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    console.result("Bär")
    console.say("\u0434")
    assert ascii_only.buffer.getvalue() == b"B\\xe4r\n\\u0434\n"


def test_ctrl_c_ends_the_last_wait_for_a_reader_without_a_traceback() -> None:
    code = """
import signal
from common.cli import console
console.take_over()
console.say("x" * 9000)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
signal.setitimer(signal.ITIMER_REAL, 0.7)  # it waits for 2 s
"""
    with pipe() as (_, writer):
        ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("level", "heard"), [("info", ["ours", "a warning"]), ("debug", ["ours", "theirs", "a warning"])]
)
def test_of_libraries_only_warnings_are_told(level: str, heard: list[str]) -> None:
    told = (
        "import logging; from common.cli import log; log.setup('alexnet-x', %r); "
        "logging.getLogger('loader.pack').info('ours'); logging.getLogger('matplotlib.fonts').info('theirs'); "
        "logging.getLogger('matplotlib').warning('a warning')"
    )
    done = subprocess.run([sys.executable, "-c", told % level], capture_output=True, text=True, check=True)
    assert [line.partition("alexnet-x: ")[2] for line in done.stderr.splitlines()] == heard
