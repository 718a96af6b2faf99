"""The one set-up of logging, and how a command turns an error into a line and an exit code."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator

from common.errors import AlexNetError

INTERRUPTED = 130  # what a shell reports for a program ended by SIGINT


def setup(program: str, verbose: bool = False) -> None:
    """Log to stderr as `program: message`, with the time; DEBUG and above if `verbose`, else INFO."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s {program}: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )


@contextlib.contextmanager
def errors_as_exit_codes(program: str) -> Iterator[None]:
    """Run a command's body: an `AlexNetError` becomes one line on stderr and its exit code, never a traceback."""
    try:
        yield
    except AlexNetError as error:
        sys.stderr.write(f"{program}: error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        sys.exit(INTERRUPTED)


class Seldom:
    """Says whether a line about something is due: the first few times in each `period_s`.

    Whoever can make a program log can make it fill a disk. Remembers `most` things.
    """

    def __init__(self, period_s: float = 10.0, most: int = 1000) -> None:
        self._period_s, self._most = period_s, most
        self._said: dict[str, tuple[float, int]] = {}  # when its period began, how often since

    def due(self, what: str, times: int = 1) -> bool:
        now = time.monotonic()
        began, said = self._said.get(what, (-math.inf, 0))
        if now - began >= self._period_s:
            began, said = now, 0
            if len(self._said) >= self._most:
                self._said.clear()
        self._said[what] = began, said + 1
        return said < times
