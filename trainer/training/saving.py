"""The checkpoints of one run: when they are due, and what a full disk costs.

Training waits for the last, and for one not yet written when the next is due.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from common.errors import SaveError
from trainer.checkpoints.state import State
from trainer.checkpoints.writer import CheckpointWriter
from trainer.training.report import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Best:
    error: float | None  # None before the first validation
    epoch: int | None


class Saving:
    """Saves every so many `minutes`; the `with` block waits for the one in flight.

    check_answers   decides on that after an error
    """

    def __init__(
        self, writer: CheckpointWriter, report: Report, minutes: float, check_answers: Callable[[], None]
    ) -> None:
        self._writer, self._report, self._minutes, self._check_answers = writer, report, minutes, check_answers
        self._best_before: Best | None = None  # counts again if the new best is not saved
        self._saved: tuple[State, Path] | None = None
        self._begun_s = time.monotonic()

    def __enter__(self) -> "Saving":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._writer.state is not None:
            with contextlib.suppress(Exception):
                self._check_answers()
        self._writer.close()

    @property
    def is_written(self) -> bool:
        """True if the one in flight need not be waited for."""
        return self._writer.is_done

    def decide(self) -> None:
        """Name the one in flight: its weights answer with numbers."""
        self._writer.decide(accepted=True)

    def abandon(self) -> None:
        self._writer.abandon()

    def hold_update(self) -> None:
        """Let the next update wait for the snapshot."""
        self._writer.hold_update()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._begun_s > 60 * self._minutes

    def begin(self, state: State, *, answers: bool, best_before: Best | None = None) -> None:
        """Begin to write a snapshot, unless `state` is saved; none is in flight.

        answers       the weights are known to answer with numbers
        best_before   the best until now, if this is better
        """
        self._begun_s, self._best_before = time.monotonic(), best_before
        if self._saved is None or self._saved[0] != state:
            self._writer.begin(state, self._history(), is_best=best_before is not None)
            if answers:
                self._writer.decide(accepted=True)

    def _history(self) -> Callable[[], None]:
        # Written here, synced by the thread, which raises the error of either.
        try:
            self._report.flush()
        except SaveError as error:
            return partial(_raise, error)
        return self._report.fsync

    def end(self) -> Path:
        """Wait for the one in flight; the last one's path. Raises SaveError and NotFinite."""
        if (state := self._writer.state) is not None:
            self._saved = state, self._writer.settle()
        assert self._saved is not None
        return self._saved[1]

    def settle(self, state: State, *, ends: bool) -> State:
        """Wait for the one in flight; the state after it. Raises NotFinite."""
        if self._writer.state is not None:
            try:
                self.end()
            except SaveError as error:
                return self._refused(error, state, ends=ends)
        return state

    def _refused(self, error: SaveError, state: State, *, ends: bool) -> State:
        """Warn; the state without the best that was not saved."""
        self._begun_s = time.monotonic()
        if ends:
            log.warning("%s; training ends, and saves once more", error)
        else:
            log.warning(
                "%s; training continues; it saves again in %g minutes or at the epoch's end", error, self._minutes
            )
        if (before := self._best_before) is None:
            return state
        return dataclasses.replace(state, best_error=before.error, best_epoch=before.epoch)


class SavedByRank0(Saving):
    """The checkpoints of a run, on another rank than 0."""

    is_written = is_due = False

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def decide(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def hold_update(self) -> None:
        pass

    def begin(self, state: State, *, answers: bool, best_before: Best | None = None) -> None:
        pass

    def settle(self, state: State, *, ends: bool) -> State:
        return state


def _raise(error: SaveError) -> None:
    raise error
