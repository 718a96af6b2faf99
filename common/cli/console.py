"""Console output that neither fails nor blocks, whatever becomes of the terminal, pipe or file.

stderr   logs, progress, errors, library warnings and tracebacks, through an `Outlet`
stdout   `say` for a closing remark; `result` for what the command was run for, which raises
"""

import atexit
import contextlib
import errno
import io
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from ..errors import OutputError, ReaderGone

PROMPT_S = 0.1  # to wait for a line to be written, unless an earlier one is stuck
DRAIN_S = 2.0  # at exit
MOST_BYTES = 1 << 18  # queued

_LINES_APART = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"  # bidirectional controls, surrogates
_CONTROLS = re.compile(f"[\0-\x1f\x7f-\x9f{_LINES_APART}]")
_CONTROLS_BUT_LINES = re.compile(f"[\0-\x08\x0b-\x1f\x7f-\x9f{_LINES_APART}]")


def shown(text: object) -> str:
    """`text` in one line, with control characters escaped, so that no class name draws on a terminal."""
    return _CONTROLS.sub(_escaped, str(text))


def shown_lines(text: str) -> str:
    return _CONTROLS_BUT_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class Outlet(io.TextIOBase):
    """A text stream written by its own thread, so that callers never block for long; one per descriptor, for good.

    A line that cannot be written, or past MOST_BYTES queued, is dropped; a notice takes its place later.
    """

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor, self._encoding = descriptor, encoding
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # the queue and the thread are the parent's

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, bytes]] = deque()  # lines dropped before, and a text
        self._bytes = self._dropped = self._refused = 0
        self._slow = self._started = False

    def write(self, text: str) -> int:
        """Queue a foreign text, control characters escaped."""
        self.draw(shown_lines(text))
        return len(text)

    def draw(self, text: str, *, may_be_left_out: bool = False) -> None:
        """Queue a text as it is; `may_be_left_out` drops it silently while an earlier one is stuck."""
        data = text.encode(self._encoding, "backslashreplace")
        with self._changed:
            if may_be_left_out and self._slow:
                return
            if self._bytes + len(data) > MOST_BYTES:
                self._dropped += max(1, text.count("\n"))
                return
            self._queue.append((self._dropped, data))
            self._bytes, self._dropped = self._bytes + len(data), 0
            if not self._start():
                self._take_turn()
            self._changed.notify_all()
            if not self._slow:
                self._slow = not self._changed.wait_for(self._is_empty, PROMPT_S)

    def drain(self, limit_s: float = DRAIN_S) -> None:
        with self._changed:
            self._changed.wait_for(self._is_empty, limit_s)

    def flush(self) -> None:
        """Do nothing: `write` has waited."""

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def _is_empty(self) -> bool:
        return self._bytes == 0

    def _start(self) -> bool:
        with contextlib.suppress(RuntimeError):  # no thread left, or Python is exiting
            if not self._started:
                threading.Thread(target=self._write_while_there_is_something, name="console", daemon=True).start()
                self._started = True
        return self._started

    def _write_while_there_is_something(self) -> None:
        """Run the thread, which ends soon: a process with several is not to be forked."""
        while True:
            with self._changed:
                if not self._queue and not self._dropped:
                    self._started = False
                    return
            self._take_turn()

    def _take_turn(self) -> None:
        with self._changed:
            dropped, data = self._queue.popleft() if self._queue else (self._dropped, b"")
            if not data:
                self._dropped = 0
            missing = self._refused + dropped
        written = _write(self._descriptor, _notice(missing) + data)
        with self._changed:
            self._refused = 0 if written else missing + data.count(b"\n")
            self._bytes -= len(data)
            self._slow = self._slow and not self._is_empty()
            self._changed.notify_all()


def _notice(lines: int) -> bytes:
    return b"(%d lines are missing here: they could not be written)\n" % lines if lines else b""


def _write(descriptor: int, data: bytes) -> bool:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process made the shared terminal or pipe non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True


_stdout: tuple[TextIO, Outlet] | None = None  # sys.stdout as Python opened it, and its outlet


def take_over() -> None:
    """Make sys.stderr an `Outlet`, before anything else."""
    global _stdout
    _occupy_closed()
    outlets = [Outlet(2, getattr(sys.stderr, "encoding", "utf-8"))]
    sys.stderr = outlets[0]
    if sys.stdout is not None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        _stdout = sys.stdout, Outlet(1, sys.stdout.encoding)
        outlets.append(_stdout[1])
    atexit.register(_end, outlets)


def _occupy_closed() -> None:
    """Open closed standard descriptors, unusable: the next file opened would receive what libraries write to stderr."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY), True)


def _end(outlets: list[Outlet]) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # ends the wait, and changes no exit code
        for outlet in outlets:
            outlet.drain()
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            sys.stdout = None  # or Python would end with a traceback and exit code 120


def drain() -> None:
    """Flush stderr, for DRAIN_S at most, before a process exits without Python's cleanup."""
    if isinstance(sys.stderr, Outlet):
        sys.stderr.drain()


def tell(line: str) -> None:
    draw(sys.stderr, shown_lines(line) + "\n")


def say(line: str) -> None:
    """Write a line to stdout that may be lost."""
    if _stdout is not None and sys.stdout is _stdout[0]:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _stdout[1].write(line + "\n")
    else:
        draw(sys.stdout, shown_lines(line) + "\n")


def draw(stream: TextIO | None, text: str, *, may_be_left_out: bool = False) -> None:
    if isinstance(stream, Outlet):
        stream.draw(text, may_be_left_out=may_be_left_out)
    elif stream is not None:
        with contextlib.suppress(OSError, ValueError):
            _write_text(stream, text)


def result(text: str) -> None:
    """Write a result to stdout. Raises ReaderGone if nobody reads it (`| head`), OutputError for any other failure."""
    with results() as stream:
        _write_text(stream, shown_lines(text) + "\n")


@contextlib.contextmanager
def results() -> Iterator[TextIO]:
    """Stdout for a block, with the errors of `result`."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.stdout = None  # its buffer cannot be written at exit either
        if isinstance(error, BrokenPipeError):
            raise ReaderGone("nobody reads stdout any longer") from None
        raise OutputError(f"stdout cannot be written: {getattr(error, 'strerror', None) or error}") from None


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def _write_text(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
