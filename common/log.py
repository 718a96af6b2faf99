"""The one set-up of logging, and how a command turns an error into a line and an exit code."""

import contextlib
import logging
import sys
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
