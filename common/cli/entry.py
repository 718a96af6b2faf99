"""The entry of every command, run before anything slow or Linux-only is imported.

Until `interruptible`, Ctrl-C ends it at once, with one line and exit code 130: an interrupted import may surface as
any other error.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import FrameType

from ..errors import UsageError
from . import console

INTERRUPTED = 130  # what a shell reports for a program ended by SIGINT
_STDOUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF}

Command = Callable[..., object]


def enter(program: str, find: Callable[[], Command], extra: str, libraries: Sequence[str]) -> None:
    """Run the click command that `find` imports, if all `libraries` of the wheel's `extra` are installed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Ending(program))
    try:
        need_linux()
        need(libraries, extra)
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


def need(libraries: Sequence[str], extra: str) -> None:
    """Raise UsageError if a library is missing; import none: this process may fork."""
    for library in libraries:
        if find_spec(library) is None:
            raise UsageError(f'{library} is not installed; pip install "alexnet[{extra}]"')


class _Ending:
    def __init__(self, program: str) -> None:
        self._program = program

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        console.tell(f"{self._program}: interrupted")
        console.drain()
        os._exit(INTERRUPTED)


def interruptible() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from here on."""
    if isinstance(signal.getsignal(signal.SIGINT), _Ending):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def need_linux() -> None:
    """Raise UsageError elsewhere: memfd, /proc and prctl are Linux's own."""
    if sys.platform != "linux":
        raise UsageError(f"AlexNet runs on Linux only, and this is {sys.platform}")
