"""The first lines of every command, run before anything slow, or anything that exists on Linux alone, is imported.

Ctrl-C ends a command where it stands, with one line and exit code 130, until it calls `interruptible` or handles the
signal itself: KeyboardInterrupt in the midst of an import may come out of it as any other error. If SIGINT was
ignored, as in what a shell runs in the background, it stays so.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from ..errors import UsageError
from . import console

INTERRUPTED = 130  # what a shell reports for a program ended by SIGINT
_STDOUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF}

Command = Callable[..., object]


def enter(program: str, find: Callable[[], Command]) -> None:
    """Run the command that `find` imports, a click command. On another system than Linux it ends with one line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Ending(program))
    try:
        need_linux()
    except UsageError as error:
        console.tell(f"{program}: error: {error}")
        sys.exit(error.exit_code)
    console.take_over()
    try:
        find()(prog_name=program)
    except KeyboardInterrupt:
        _Ending(program)(signal.SIGINT, None)
    except OSError as error:  # of click, which writes --help and --version; a command's body has its own handling
        if error.errno not in _STDOUT_ERRORS:
            raise
        console.tell(f"{program}: error: stdout cannot be written: {error.strerror}")
        sys.exit(1)


class _Ending:
    """A handler of SIGINT that ends the process."""

    def __init__(self, program: str) -> None:
        self._program = program

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        console.tell(f"{self._program}: interrupted")
        console.drain()
        os._exit(INTERRUPTED)


def interruptible() -> None:
    """From here on Ctrl-C is KeyboardInterrupt: the imports are done, and what follows is to be left in order."""
    if isinstance(signal.getsignal(signal.SIGINT), _Ending):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def need_linux() -> None:
    """Raise UsageError on any other: memory is shared by memfd, and /proc, prctl and signalling are Linux's own."""
    if sys.platform != "linux":
        raise UsageError(f"AlexNet runs on Linux only, and this is {sys.platform}")
