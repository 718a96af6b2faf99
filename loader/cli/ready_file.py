"""--ready-file: the endpoints of all services, written when the last is ready, removed when they end."""

import fcntl
import logging
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from common.cli.console import say
from common.cli.outputs import STDOUT, is_fifo, remove_written, written
from common.errors import AlexNetError

log = logging.getLogger(__name__)

_ROW = 1024  # bytes, of an endpoint
_ALL_INTERFACES = ("0.0.0.0", "::")


class ReadyFile:
    """The file at `path`; in a `with` block, as it removes an earlier one.

    What each of `services` processes, forked later, says lies in memory they share.
    """

    def __init__(self, path: Path, services: int) -> None:
        self._path, self._services = path, services
        self._fd = os.memfd_create("alexnet-ready", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, _ROW * services)

    def __enter__(self) -> "ReadyFile":
        remove_written(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        remove_written(self._path)

    def note(self, number: int, endpoint: str, figures_at: str | None) -> None:
        """Note that a service is ready, and write the file if all are. A failure is logged."""
        row = named(endpoint).encode()[:_ROW].ljust(_ROW, b"\0")  # over that of an earlier life
        fcntl.lockf(self._fd, fcntl.LOCK_EX)  # a process's own, so that its death ends it
        try:
            os.pwrite(self._fd, row, _ROW * number)
            rows = [os.pread(self._fd, _ROW, _ROW * at).rstrip(b"\0").decode() for at in range(self._services)]
            if all(rows):
                self._write("\n".join([*rows, *([named(figures_at)] if figures_at is not None else [])]))
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _write(self, lines: str) -> None:
        if is_fifo(self._path):  # which waits for its reader
            threading.Thread(target=self._write_now, args=(lines,), daemon=True).start()
        else:
            self._write_now(lines)

    def _write_now(self, lines: str) -> None:
        if self._path == STDOUT:
            say(lines)
            return
        try:
            with written(self._path) as file:
                file.write(lines + "\n")
        except AlexNetError as error:
            log.warning("%s (--ready-file)", error)


def named(url: str) -> str:
    """The URL with this host's name, if it has one, in place of "all interfaces"."""
    parts = urlsplit(url)
    if parts.hostname not in _ALL_INTERFACES:
        return url
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return url
    return parts._replace(netloc=f"{name}:{parts.port}").geturl()
