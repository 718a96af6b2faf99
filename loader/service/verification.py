"""Files that are touched while they are served: one process reads each again, once, and its tickets wait meanwhile.

Workers take the service's word for a file's version: none of them reads a whole dataset.
"""

import logging
import select
import socket
import subprocess
import time
from collections.abc import Callable, Mapping

from common.cli.progress import PLAIN_INTERVAL_S, duration
from loader.dataset import Dataset
from loader.workers import child, link

log = logging.getLogger(__name__)

_MOST_DEATHS = 5  # of the process, over one file
_PAUSE_S = 1.0  # after one


class Verifications:
    """`hand_over` gives the workers a split's file anew, once it has proved to be the dataset of before."""

    def __init__(self, datasets: Mapping[str, Dataset], hand_over: Callable[[str], None]) -> None:
        self._datasets, self._hand_over = datasets, hand_over
        self._running: dict[str, _Verification] = {}
        self._faults: dict[str, str] = {}

    def waits(self, split: str) -> bool:
        return split in self._running

    def fault(self, split: str) -> str | None:
        """The reason that nothing of the split can be served any more, if there is one."""
        return self._faults.get(split)

    def touched(self, split: str) -> None:
        """A worker found the file at another version than it was told."""
        dataset = self._datasets[split]
        known = split in self._running or split in self._faults
        if not known and dataset.file.version(dataset.digest) != dataset.version:  # else the worker will learn of it
            log.warning("%s was written to; it is verified before more of it is served", dataset.path)
            self._running[split] = _Verification(split, dataset)

    def look(self) -> None:
        for split, verification in [*self._running.items()]:
            outcome = verification.look()
            if isinstance(outcome, str):
                self._faults[split] = outcome
                log.warning("%s", outcome)
            elif outcome:
                self._hand_over(split)
            if outcome is not None:
                del self._running[split]

    def close(self) -> None:
        for verification in self._running.values():
            verification.close()


class _Verification:
    """Reading one file again: by another process if one dies, from the start if the file is touched again."""

    def __init__(self, split: str, dataset: Dataset) -> None:
        self._split, self._dataset = split, dataset
        self._child: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._version = dataset.version
        self._began_s = self._tell_s = self._start_s = 0.0
        self._deaths = 0

    def look(self) -> str | bool | None:
        """True if it is still the dataset, the reason if not, None as long as that is unknown."""
        if self._child is None:
            self._start()
        elif child.is_stopped(self._child[0].pid):
            self._child[0].kill()
        outcome = None
        while self._child is not None and outcome is None and _is_readable(self._child[1]):
            outcome = self._hear(*self._child)
        return outcome

    def _start(self) -> None:
        if (now_s := time.monotonic()) < self._start_s:
            return
        self._start_s, self._began_s, self._tell_s = now_s + _PAUSE_S, now_s, now_s + PLAIN_INTERVAL_S
        self._version = self._dataset.file.version(self._dataset.digest)
        try:
            self._child = _, connection = child.started("loader.workers.verifier")
            file = link.Open.of(self._split, self._dataset.path, "", self._version)
            link.send(connection, file, self._dataset.file.fd)
        except OSError as error:  # no process or descriptor is left, or it has died
            self.close()
            log.warning("%s cannot be verified yet: %s", self._dataset.path, error.strerror)

    def _hear(self, process: "subprocess.Popen[bytes]", connection: socket.socket) -> str | bool | None:
        received = link.receive(connection)
        match received[0] if received is not None else None:
            case link.Compared(records, all=False):
                self._tell(records)
                return None
            case None:
                self.close()
                return self._died(child.ending(process.returncode))
            case message:
                self.close()
        if isinstance(message, link.Failed):
            return message.reason
        if isinstance(message, link.Touched):
            return None
        self._dataset.accept(self._version)
        log.info("%s is the dataset it was, verified in %s", self._dataset.path, duration(self._age_s))
        return True

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._began_s

    def _tell(self, records: int) -> None:
        if time.monotonic() > self._tell_s and records:
            self._tell_s = time.monotonic() + PLAIN_INTERVAL_S
            share = records / self._dataset.records
            rate = records * self._dataset.record_bytes / self._age_s / 1e9
            left = duration(self._age_s / share - self._age_s)
            log.info("verifying %s: %.0f %%, %.2g GB/s, %s left", self._dataset.path, 100 * share, rate, left)

    def _died(self, how: str) -> str | None:
        self._deaths += 1
        log.warning("the process that verifies %s ended (%s)", self._dataset.path, how)
        if self._deaths < _MOST_DEATHS:
            return None
        return f"{self._dataset.path} was written to and cannot be verified: that ended {how}; restart the loader"

    def close(self) -> None:
        if self._child is not None:
            process, connection = self._child
            connection.close()
            process.kill()
            process.wait()
            self._child = None


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
