"""Signals as a file descriptor to poll.

SIGINT, SIGTERM   stop
SIGCHLD           a worker died or was stopped
SIGHUP            optional: read the number of workers again
"""

import contextlib
import signal
import socket
from collections.abc import Iterator

STOP = frozenset({signal.SIGINT, signal.SIGTERM})


class Signals:
    """Signals that came since `received` was last called; `fileno` is readable if any did."""

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader

    def fileno(self) -> int:
        return self._reader.fileno()

    def received(self) -> set[int]:
        try:
            return set(self._reader.recv(4096))  # a byte a signal, its number
        except BlockingIOError:
            return set()


@contextlib.contextmanager
def caught(*, hangup: bool) -> Iterator[Signals]:
    """Let the signals above only wake the loop; without `hangup`, SIGHUP keeps its default action."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, *([signal.SIGHUP] if hangup else [])]
    with reader, writer:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        try:
            yield Signals(reader)
        finally:
            signal.set_wakeup_fd(before)
