"""A thread that writes checkpoints while training continues.

    main thread     begin: snapshot    steps ...           decide    steps ...            settle
    writer thread                      history, file: written, synced    renamed, pruned, best

The next step's loss shows if a snapshot's weights answer with numbers; until then the file has no name.
"""

import contextlib
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trainer.checkpoints import checkpoint
from trainer.checkpoints.snapshot import Snapshot
from trainer.checkpoints.state import State


class _Rejected(Exception):
    pass


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    state: State
    accepted: "Future[bool]"
    written: "Future[Path]"


class CheckpointWriter:
    def __init__(self, run_folder: Path, keep: int, snapshot: Snapshot, mean_hwc: Tensor) -> None:
        self._run_folder, self._keep, self._snapshot, self._mean_hwc = run_folder, keep, snapshot, mean_hwc
        self._thread = ThreadPoolExecutor(1, "checkpoint", _leave_signals_to_the_main_thread)
        self._in_flight: _InFlight | None = None

    @property
    def state(self) -> State | None:
        return self._in_flight.state if self._in_flight else None

    @property
    def is_done(self) -> bool:
        return self._in_flight is not None and self._in_flight.written.done()

    def begin(self, state: State, sync_history: Callable[[], None], *, is_best: bool) -> None:
        """Take a snapshot and write it, `sync_history` first; none is in flight."""
        assert self._in_flight is None, "settle the last one first"
        self._snapshot.take()
        accepted: Future[bool] = Future()
        written = self._thread.submit(self._write, state, sync_history, is_best, accepted)
        self._in_flight = _InFlight(state, accepted, written)

    def hold_update(self) -> None:
        self._snapshot.hold_update()

    def decide(self, accepted: bool) -> None:
        """Name the one in flight, or drop it; the first decision counts."""
        if self._in_flight is not None and not self._in_flight.accepted.done():
            self._in_flight.accepted.set_result(accepted)

    def settle(self) -> Path:
        """Wait for the one in flight, which is decided. Raises SaveError and NotFinite."""
        assert self._in_flight is not None
        in_flight, self._in_flight = self._in_flight, None
        assert in_flight.accepted.done() or in_flight.written.done(), "undecided, it would wait for ever"
        return in_flight.written.result()

    def abandon(self) -> None:
        self.decide(accepted=False)
        if self._in_flight is not None:
            with contextlib.suppress(Exception):
                self.settle()

    def close(self) -> None:
        self.abandon()
        self._thread.shutdown()

    def _write(self, state: State, sync_history: Callable[[], None], is_best: bool, accepted: "Future[bool]") -> Path:
        def until_accepted() -> None:
            if not accepted.result():
                raise _Rejected

        sync_history()
        self._snapshot.wait()
        tensors = self._snapshot.stored()
        path = checkpoint.write(self._run_folder, state, tensors, self._mean_hwc, self._keep, until_accepted)
        if is_best:
            checkpoint.save_best(path)
        return path


def _leave_signals_to_the_main_thread() -> None:
    # Delivered to this thread, they would not interrupt the main thread's wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1))
