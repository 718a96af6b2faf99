"""The process that a user starts: it runs each service in a child, and restarts it when it dies.

Children are forked, so it never loads ZeroMQ, LMDB or numpy, nor starts a thread: nothing that a fork could break, or
that crashes.
"""

import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence

from common.errors import LoaderError
from loader.service.life import Life, Service
from loader.service.signals import STOP, HeldSignals, held

log = logging.getLogger(__name__)

MOST_DEATHS = 30  # within WITHIN_S, or in a row before it could serve; one every 3 s is survived
WITHIN_S = 60.0
_FIRST_PAUSE_S, _GROWTH, _LONGEST_PAUSE_S = 0.1, 1.5, 1.0
_LOOK_S = 0.02  # between two looks for the first service to serve
_SI_KERNEL = 0x80


def supervise(program: str, serve: Sequence[Service], binds: Sequence[str], *, hangup: bool) -> None:
    """Serve at each of `binds` until SIGINT or SIGTERM.

    An error at a service's first start, or an AlexNetError later, ends all. The others start once the first one serves:
    a common error is logged once. All restarts keep the port first chosen. Raises LoaderError if a service dies too
    often. `hangup` passes SIGHUP to the services.
    """
    with held({*STOP, signal.SIGCHLD, *([signal.SIGHUP] if hangup else [])}) as signals:
        numbers = range(len(serve)) if len(serve) > 1 else [None]
        posts = [_Post(program, *each, signals) for each in zip(serve, numbers, binds, strict=True)]
        try:
            code = _Watch(posts, signals).until_all_have_ended()
        finally:
            for post in posts:
                post.end()
    if code != 0:
        sys.exit(code if code > 0 else 128 - code)


def pause_after(deaths: "deque[float]", unready: int, how: str, lived_s: float, service: str = "the service") -> float:
    """Seconds until the next start, more after each recent death. Raises LoaderError if there were too many."""
    often = len(deaths) == MOST_DEATHS and deaths[-1] - deaths[0] < WITHIN_S
    if often or unready >= MOST_DEATHS:
        when = f"within {WITHIN_S:.0f} s" if often else "before it could serve"
        raise LoaderError(f"{service} died {MOST_DEATHS} times {when} and is given up; the last time it {how}")
    recent = sum(deaths[-1] - death < WITHIN_S for death in deaths)
    apart_s = min(_FIRST_PAUSE_S * _GROWTH ** (recent - 1), _LONGEST_PAUSE_S)
    return max(apart_s - lived_s, _FIRST_PAUSE_S)


class _Watch:
    def __init__(self, posts: "list[_Post]", signals: HeldSignals) -> None:
        self._posts, self._signals = posts, signals
        self._ending, self._code = False, 0

    def until_all_have_ended(self) -> int:
        """Start services until they are to end. Returns the first exit code that is not 0, or minus the signal."""
        while not self._ending or any(post.life is not None for post in self._posts):
            came = self._signals.next_within(None if self._ending else self._started())
            if came is not None and came.si_signo == signal.SIGCHLD:
                self._take_in_ends()
            elif came is not None:
                self._pass_on(came)
        return self._code

    def _started(self) -> float | None:
        """Start what is due. Returns the seconds until more is."""
        first, *others = self._posts
        first_serves = not others or first.serves()
        open_posts = self._posts if first_serves else [first]
        for post in open_posts:
            post.start_if_due()
        waits_s = [post.due_s - time.monotonic() for post in open_posts if post.life is None]
        return min(waits_s + [_LOOK_S] * (not first_serves), default=None)

    def _take_in_ends(self) -> None:
        for post in self._posts:
            code = post.life.ended() if post.life is not None else None
            if code is None:
                continue
            if post.is_over(code) or self._ending:
                self._code = self._code or code
                self._end_others(post, code)
            else:
                post.start_later(code)

    def _end_others(self, over: "_Post", code: int) -> None:
        others = [post for post in self._posts if post is not over and post.life is not None and not self._ending]
        if others:
            log.warning("%s %s; all others end with it", over.name, _end_of(code))
        over.life = None
        for post in others:
            post.signal(signal.SIGTERM)
        self._ending = True

    def _pass_on(self, came: signal.struct_siginfo) -> None:
        self._ending = self._ending or came.si_signo in STOP
        if self._ending and all(post.life is None for post in self._posts):
            log.info("stopped")
        for post in self._posts:
            if not (came.si_signo == signal.SIGINT and came.si_code == _SI_KERNEL):  # a terminal's Ctrl-C reaches all
                post.signal(came.si_signo)


class _Post:
    """A service, life after life. `life` is None until `due_s`, by time.monotonic, and when it is over.

    number   as in the figures of --metrics; None if it is alone
    """

    def __init__(self, program: str, serve: Service, number: int | None, bind: str, signals: HeldSignals) -> None:
        self._program, self._serve, self._number, self._bind, self._signals = program, serve, number, bind, signals
        self.life: Life | None = None
        self.due_s = self._began_s = 0.0
        self._endpoint, self._unready = "", 0  # lives in a row that did not serve
        self._deaths = deque[float](maxlen=MOST_DEATHS)

    @property
    def name(self) -> str:
        served = self.life.endpoint if self.life is not None else ""
        at = self._endpoint or served or self._bind
        return "the service" if self._number is None else f"service {self._number} at {at}"

    def serves(self) -> bool:
        if self.life is not None:
            self.life.hear()
        return bool(self._endpoint or (self.life is not None and self.life.endpoint))

    def start_if_due(self) -> None:
        if self.life is not None or time.monotonic() < self.due_s:
            return
        self._began_s = time.monotonic()
        try:
            self.life = Life(self._program, self._serve, self._endpoint or self._bind, self._signals)
        except OSError as error:  # no process or descriptor is left
            if not self._endpoint:
                raise
            self._unready += 1
            self._pause(f"could not be started: {error.strerror}")

    def is_over(self, code: int) -> bool:
        """Return True if a life that ended with this code was the last."""
        assert self.life is not None
        return code == 0 or self.life.gave_up or (code > 0 and not self.serves())

    def start_later(self, code: int) -> None:
        assert self.life is not None
        served = self.life.endpoint
        self._endpoint, self._unready = (served, 0) if served else (self._endpoint, self._unready + 1)
        self.life = None
        self._pause(_end_of(code))

    def _pause(self, how: str) -> None:
        self._deaths.append(now_s := time.monotonic())
        pause_s = pause_after(self._deaths, self._unready, how, now_s - self._began_s, self.name)
        log.warning("%s %s; it is started again in %.1f s", self.name, how, pause_s)
        self.due_s = now_s + pause_s

    def signal(self, number: int) -> None:
        if self.life is not None:
            os.kill(self.life.pid, number)

    def end(self) -> None:
        """End a life that is left after an error."""
        self.signal(signal.SIGTERM)
        if self.life is not None:
            os.waitpid(self.life.pid, 0)


def _end_of(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
