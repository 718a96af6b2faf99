"""The endpoint of --metrics: its socket, and the process that answers there.

The socket is bound before the service is forked: a taken port is one error at the start, and restarts keep it open.
Each life of the service has a process of its own at it.
"""

import contextlib
import copy
import logging
import os
import signal
import socket
import subprocess
import sys
import time

from common.cli.log import RateLimiter
from common.errors import UsageError
from loader.monitoring.figures import Figures

log = logging.getLogger(__name__)

PAUSE_S = 1.0  # between two starts


class Exporter:
    """Listens at `address`, HOST:PORT, for the figures of `services`. Raises UsageError if it cannot.

    figures   of the service that has this one: the first, or that of `of`
    """

    def __init__(self, address: str, services: int = 1) -> None:
        self._all, self._listener = [Figures.create() for _ in range(services)], _listening(address)
        self.figures, self._answers = self._all[0], True
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s, self._log_limit = 0.0, RateLimiter()

    def of(self, number: int) -> "Exporter":
        """The same for another service. The first one's alone starts the process that answers, for all."""
        other = copy.copy(self)
        other.figures, other._answers = self._all[number], number == 0
        return other

    @property
    def url(self) -> str:
        host, port, *_ = self._listener.getsockname()
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def staff(self) -> None:
        """Start the process that answers, unless it runs."""
        code = self._process.poll() if self._process is not None else None
        if (
            not self._answers
            or (self._process is not None and code is None)
            or time.monotonic() - self._started_s < PAUSE_S
        ):
            return
        if code is not None and self._log_limit.allows("ended"):
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            log.warning("the process that answers scrapes ended (%s); another takes its place (--metrics)", how)
        self._started_s = time.monotonic()
        descriptors = self._listener.fileno(), *(figures.fd for figures in self._all)
        program = [sys.executable, "-P", "-m", "loader.monitoring.responder"]  # -P as for workers
        with contextlib.suppress(OSError):  # no process or descriptor is left: tried again
            self._process = subprocess.Popen(
                [*program, *map(str, descriptors)], pass_fds=descriptors, env=os.environ, stdin=subprocess.DEVNULL
            )

    def close(self) -> None:
        self._listener.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _listening(address: str) -> socket.socket:
    host, port = host_and_port(address)
    try:
        family, kind, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections may linger, closed
            listener.bind(at)
            listener.listen()
            stack.pop_all()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {address}: {reason} (--metrics)") from None
    return listener


def host_and_port(address: str) -> tuple[str, int]:
    """Raises UsageError unless it is HOST:PORT; the port is 0 for *."""
    host, colon, port = address.rpartition(":")
    number = 0 if port == "*" else int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    if not (host and colon) or not 0 <= number < 1 << 16 or (":" in host and not host.startswith("[")):
        raise UsageError(f"{address!r} is not HOST:PORT, as in 127.0.0.1:9400 (--metrics)")
    return host.strip("[]"), number
