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
    """Let the signals above only wake the loop; without `hangup`, SIGHUP keeps its default action.

    That lasts until the process ends, so that a second Ctrl-C changes nothing, or until an error.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, *([signal.SIGHUP] if hangup else [])]
    with reader, writer:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield Signals(reader)
        except BaseException:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            raise
        finally:
            signal.set_wakeup_fd(before)


class HeldSignals:
    """Signals that wait to be taken, so that none comes between two lines."""

    def __init__(self, numbers: set[int], before: set[int]) -> None:
        self.numbers, self._before = numbers, before

    def let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def next_within(self, seconds: float | None) -> signal.struct_siginfo | None:
        if seconds is None:
            return signal.sigwaitinfo(self.numbers)
        return signal.sigtimedwait(self.numbers, max(0.0, seconds))


@contextlib.contextmanager
def held(numbers: set[int]) -> Iterator[HeldSignals]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield HeldSignals(numbers, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
