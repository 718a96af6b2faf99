"""One process of a service, forked from the one that a user starts."""

import contextlib
import logging
import os
import traceback
from collections.abc import Callable
from typing import NoReturn

from common.cli.log import errors_as_exit_codes
from common.errors import AlexNetError
from common.parent import die_with_parent
from loader.service.signals import HeldSignals

_SERVES, _GIVES_UP = "serves ", "gives up"

Announce = Callable[[str], None]  # tells the endpoint, once it is served
Service = Callable[[str, Announce], None]  # serves at an endpoint until it is told to stop


class Life:
    """One process of a service.

    endpoint   that it served so far, or "" if none
    gave_up    True if it ended with an AlexNetError after it had served
    """

    def __init__(self, program: str, serve: Service, bind: str, signals: HeldSignals) -> None:
        self.endpoint, self.gave_up = "", False
        parent = os.getpid()
        said, say = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(said)
            os.close(say)
            raise
        if self.pid == 0:
            _live(program, serve, bind, signals, say, parent)
        os.close(say)
        os.set_blocking(said, False)
        self._said = said

    def ended(self) -> int | None:
        """Its exit code, or minus the signal; None if it lives, stopped perhaps."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.hear()
        os.close(self._said)
        self._said = -1
        return os.waitstatus_to_exitcode(status)

    def hear(self) -> None:
        """Take in what it said so far."""
        told = b""
        if self._said >= 0:
            with contextlib.suppress(BlockingIOError):
                told = os.read(self._said, 4096)  # more than it ever says
        for line in told.decode().splitlines():
            self.endpoint = line.removeprefix(_SERVES) if line.startswith(_SERVES) else self.endpoint
            self.gave_up = self.gave_up or (bool(self.endpoint) and line == _GIVES_UP)


def _live(program: str, serve: Service, bind: str, signals: HeldSignals, said: int, parent: int) -> NoReturn:
    """Serve, and exit without unwinding the parent's stack."""
    code: object = 1
    try:
        die_with_parent(parent)
        signals.let_go()
        with errors_as_exit_codes(program):
            try:
                serve(bind, lambda endpoint: _say(said, _SERVES + endpoint))
            except AlexNetError:
                _say(said, _GIVES_UP)
                raise
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(code if isinstance(code, int) else 1)


def _say(said: int, line: str) -> None:
    os.write(said, f"{line}\n".encode())
