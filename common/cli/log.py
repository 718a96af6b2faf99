"""Logging setup, and errors as one line and an exit code."""

import contextlib
import errno
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator

from ..errors import AlexNetError, ReaderGone, ToldByAnother
from . import console
from .entry import INTERRUPTED

log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")

# Faults of a path that the user named; all others lie with the machine.
_PATH_ERRORS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip

_OURS = {"common", "alexnet_client", "loader", "trainer", "alexnet2012", "__main__"}  # packages

_LACKS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}  # in ZeroMQ's own errors


def setup(program: str, level: str = "info") -> None:
    """Log to the console: of libraries only their warnings, unless `level` is debug."""
    handler = _Handler()
    if level != "debug":
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.partition(".")[0] in _OURS)
    handler.setFormatter(_Formatter(f"%(asctime)s {program}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.tell(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        console.drain()


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = console.shown(record.message)
        return super().formatMessage(record)


@contextlib.contextmanager
def errors_as_exit_codes(
    program: str, shown_by_others: Callable[[BaseException, str], bool] | None = None
) -> Iterator[None]:
    """Run a command's body; an AlexNetError, a system error or a lack of memory becomes one line and an exit code.

    shown_by_others   takes the error and its words; if it returns True, no line is written here
    """

    def end(error: Exception, message: str, exit_code: int) -> None:
        log.debug("traceback", exc_info=True)
        message = console.shown(message)
        if shown_by_others is None or not shown_by_others(error, message):
            console.tell(f"{program}: error: {message}")
        sys.exit(exit_code)

    try:
        yield
    except ReaderGone as error:
        sys.exit(error.exit_code)
    except ToldByAnother as error:
        if shown_by_others is not None:
            shown_by_others(error, console.shown(error))
        sys.exit(error.exit_code)
    except AlexNetError as error:
        end(error, str(error), error.exit_code)
    except OSError as error:
        end(error, error_text(error), 2 if error.errno in _PATH_ERRORS else 1)
    except MemoryError as error:
        end(error, f"not enough memory: {error}" if str(error) else "not enough memory", 1)
    except Exception as error:
        if getattr(error, "errno", None) not in _LACKS:
            raise
        end(error, getattr(error, "strerror", None) or str(error), 1)
    except KeyboardInterrupt:
        console.tell(f"{program}: interrupted")
        sys.exit(INTERRUPTED)


def error_text(error: OSError) -> str:
    """`runs/first: Permission denied`: the file, if any, and the reason."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    files = [os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names]
    return ": ".join([" to ".join(files)] * bool(files) + [error.strerror or str(error) or type(error).__name__])


class RateLimiter:
    """Rate limiter for log lines by subject: a peer that causes them could fill a disk."""

    def __init__(self, period_s: float = 10.0, most: int = 1000) -> None:
        self._period_s, self._most = period_s, most
        self._said: dict[str, tuple[float, int]] = {}  # when its period began, how often since

    def allows(self, what: str, times: int = 1) -> bool:
        now = time.monotonic()
        began, said = self._said.get(what, (-math.inf, 0))
        if now - began >= self._period_s:
            began, said = now, 0
            if len(self._said) >= self._most:
                self._said.clear()
        self._said[what] = began, said + 1
        return said < times
