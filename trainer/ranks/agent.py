"""torch's elastic agent for the ranks of this host, with the trainer's signals and exit codes.

Signals are passed on to the ranks, which save; the agent alone would end them.
"""

import contextlib
import inspect
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

from trainer.ranks.ending import Ending, first_ending

log = logging.getLogger(__name__)

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_LAST_WAIT_S = 2  # for ranks that are ended at once
_LATE_S = 300.0  # after a signal and the end of the first rank, a rank has saved or hangs


class Interrupted(Exception):
    """A signal that ends the launcher at once."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ended(Exception):
    """Ranks ended, and none is to be restarted."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class RankAgent(LocalElasticAgent):
    """Starts, watches and restarts ranks until all end well; use `run` in a `with` block.

    `run` raises Ended or Interrupted; its result is a failure if no restart is left.
    """

    def __init__(self, spec: WorkerSpec, log_folder: str) -> None:
        known = inspect.signature(LocalElasticAgent).parameters  # torch 2.11 waits 30 s, whatever is asked
        patience: dict[str, Any] = {"shutdown_timeout": _LAST_WAIT_S} if "shutdown_timeout" in known else {}
        super().__init__(spec, DefaultLogsSpecs(log_folder), **patience)
        self.received: list[int] = []
        self._unsent: list[int] = []  # that came while ranks were started
        self._has_ranks = False
        self._late_s: float | None = None  # by time.monotonic
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "RankAgent":
        for number in _PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        self._unsent.append(number)
        self._pass_on()
        if not self._has_ranks or self.received.count(signal.SIGINT) > 1:
            raise Interrupted(number)

    def _pass_on(self) -> None:
        pids = self._pids()
        while pids and self._unsent:
            number = self._unsent.pop(0)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _pids(self) -> list[int]:
        return [] if self._pcontext is None else list(self._pcontext.pids().values())

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._pcontext = None  # those of before are gone, and their numbers may be others'
        self._has_ranks = True
        started: dict[int, Any] = super()._start_workers(worker_group)
        self._pass_on()
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self.received and (running := [*filter(_is_running, self._pids())]):
            self._kill_late(running)
            return RunResult(state=WorkerState.HEALTHY)  # they save, however long that takes all of them
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            ending = first_ending(result.failures)
            if self.received or not ending.is_worth_a_restart:
                raise Ended(ending)
            if self._remaining_restarts > 0:
                used = worker_group.spec.max_restarts - self._remaining_restarts
                log.warning("%s; all ranks restart, for the %s time", ending, _ordinal(used + 1))
                self._has_ranks = False
        return result

    def _kill_late(self, running: list[int]) -> None:
        if len(running) < len(self._pids()):
            self._late_s = self._late_s or time.monotonic() + _LATE_S
            for pid in running if time.monotonic() > self._late_s else []:
                os.kill(pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    """False for a zombie, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
