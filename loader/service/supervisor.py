"""The process that a user starts: it runs the service in a child, and restarts it when it dies.

The child is forked. So this process must never load ZeroMQ, LMDB or numpy, nor start a thread: nothing that a fork
could break, and nothing that crashes.
"""

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import NoReturn

from common.cli.log import errors_as_exit_codes
from common.errors import AlexNetError, LoaderError
from common.parent import die_with_parent
from loader.service.signals import STOP

log = logging.getLogger(__name__)

MOST_DEATHS = 30  # within WITHIN_S, or in a row before it could serve; one every 3 s is survived
WITHIN_S = 60.0
_FIRST_PAUSE_S, _GROWTH, _LONGEST_PAUSE_S = 0.1, 1.5, 1.0
_SI_KERNEL = 0x80
_SERVES, _GIVES_UP = "serves ", "gives up"

Announce = Callable[[str], None]  # tells the endpoint, once it is served
Service = Callable[[str, Announce], None]  # serves at an endpoint until it is told to stop


def supervise(program: str, serve: Service, bind: str, *, hangup: bool) -> None:
    """Serve at `bind` until SIGINT or SIGTERM. An error at the first start, or an AlexNetError later, ends this too.

    All restarts keep the port first chosen. Raises LoaderError if the service dies too often. `hangup` passes SIGHUP
    to the service.
    """
    deaths, unready, endpoint = deque[float](maxlen=MOST_DEATHS), 0, ""
    with _held({*STOP, signal.SIGCHLD, *([signal.SIGHUP] if hangup else [])}) as signals:
        while True:
            began_s = time.monotonic()
            try:
                life = _Life(program, serve, endpoint or bind, signals)
            except OSError as error:  # no process or descriptor is left
                if not endpoint:
                    raise
                unready, how = unready + 1, f"could not be started: {error.strerror}"
            else:
                code, stopped = life.wait()
                if code == 0 or stopped or life.gave_up or (code > 0 and not (endpoint or life.endpoint)):
                    break
                endpoint, unready = (life.endpoint, 0) if life.endpoint else (endpoint, unready + 1)
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            deaths.append(time.monotonic())
            pause_s = pause_after(deaths, unready, how, deaths[-1] - began_s)
            log.warning("the service %s; it is started again in %.1f s", how, pause_s)
            if signals.stopped_within(pause_s):
                log.info("stopped")
                return
    if code != 0:
        sys.exit(code if code > 0 else 128 - code)


def pause_after(deaths: "deque[float]", unready: int, how: str, lived_s: float) -> float:
    """Seconds until the next start, more after each recent death. Raises LoaderError if there were too many."""
    often = len(deaths) == MOST_DEATHS and deaths[-1] - deaths[0] < WITHIN_S
    if often or unready >= MOST_DEATHS:
        when = f"within {WITHIN_S:.0f} s" if often else "before it could serve"
        raise LoaderError(f"the service died {MOST_DEATHS} times {when} and is given up; the last time it {how}")
    recent = sum(deaths[-1] - death < WITHIN_S for death in deaths)
    apart_s = min(_FIRST_PAUSE_S * _GROWTH ** (recent - 1), _LONGEST_PAUSE_S)
    return max(apart_s - lived_s, _FIRST_PAUSE_S)


class _Held:
    def __init__(self, numbers: set[int], before: set[int]) -> None:
        self.numbers, self._before = numbers, before

    def let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def stopped_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            came = signal.sigtimedwait(self.numbers, left)
            if came is not None and came.si_signo in STOP:
                return True
        return False


@contextlib.contextmanager
def _held(numbers: set[int]) -> Iterator[_Held]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield _Held(numbers, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Life:
    """One process of the service. Known once it has ended:

    endpoint   that it served, or "" if none
    gave_up    True if it ended with an AlexNetError after it had served
    """

    def __init__(self, program: str, serve: Service, bind: str, signals: _Held) -> None:
        self._signals = signals
        self.endpoint, self.gave_up = "", False
        parent = os.getpid()
        self._said, said = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._said)
            os.close(said)
            raise
        if self._pid == 0:
            _live(program, serve, bind, signals, said, parent)
        os.close(said)

    def wait(self) -> tuple[int, bool]:
        """Forward signals until it ends. Returns its exit code, or minus the signal; and True if told to stop."""
        stopped = False
        while True:
            came = signal.sigwaitinfo(self._signals.numbers)
            if came.si_signo == signal.SIGCHLD:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid == 0:
                    continue  # it was stopped, or goes on after that
                self._read()
                return os.waitstatus_to_exitcode(status), stopped
            stopped = stopped or came.si_signo in STOP
            if not (came.si_signo == signal.SIGINT and came.si_code == _SI_KERNEL):  # a terminal's Ctrl-C reaches both
                os.kill(self._pid, came.si_signo)

    def _read(self) -> None:
        with open(self._said) as said:
            for line in said.read().splitlines():
                self.endpoint = line.removeprefix(_SERVES) if line.startswith(_SERVES) else self.endpoint
                self.gave_up = bool(self.endpoint) and line == _GIVES_UP


def _live(program: str, serve: Service, bind: str, signals: _Held, said: int, parent: int) -> NoReturn:
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
