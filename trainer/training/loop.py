"""The training loop: train an epoch, validate, save; stop at the end, at a limit or on a signal.

The host never waits for the device inside a step: the loss of step k is read once step k + 1 is queued.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from common import digest
from common.errors import AlexNetError, LoaderError, RankLost, SaveError, ToldByAnother
from trainer.checkpoints.snapshot import NotFinite, Snapshot
from trainer.checkpoints.state import State, Tally
from trainer.checkpoints.writer import CheckpointWriter
from trainer.device.streams import Streams
from trainer.evaluation.validation import Evaluation, evaluate
from trainer.feeding.data import TrainingData
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.upload import AsyncResult
from trainer.network.model import reference_shapes
from trainer.network.net import Net
from trainer.training.agreement import path_on_rank_0
from trainer.training.finite import FiniteCheck
from trainer.training.outcome import Outcome, diverged
from trainer.training.profile import Profile
from trainer.training.report import Plan, Report
from trainer.training.saving import Best, SavedByRank0, Saving
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd
from trainer.training.shown import Shown
from trainer.training.stopping import StopRequested
from trainer.training.together import QueuedStep, Together, Turn

log = logging.getLogger(__name__)


class Trainer:
    """Trains `net` from `state` on; `state` is always that of a checkpoint taken now.

    step     computes gradients, as `GlobalStep` does
    resume   the command to tell
    """

    def __init__(
        self,
        *,
        net: Net,
        step: Callable[..., Tensor],
        together: Together,
        sgd: Sgd,
        schedule: Schedule,
        data: TrainingData,
        state: State,
        run_folder: Path,
        plan: Plan,
        report: Report,
        checkpoint_minutes: float,
        keep: int,
        profile: Profile | None,
        resumed_from: Path | None,
        resume: str = "",
    ) -> None:
        self._net, self._step, self._together = net, step, together
        self._sgd, self._schedule, self._data = sgd, schedule, data
        self._run_folder, self._plan, self._report = run_folder, plan, report
        self._profile, self._resumed_from, self._resume = profile, resumed_from, resume
        self.state = state
        self._began = state.position
        self._tally = dataclasses.replace(state.tally) if state.tally else Tally()
        self._streams = Streams()
        self._queued: QueuedStep | None = None
        self._finite, self._shown = FiniteCheck(net, together), Shown(net, data, report)
        self._batches: Iterator[DeviceBatch] | None = None
        self._evaluation: Evaluation | None = None
        self._saving: Saving = SavedByRank0()
        if together.world.rank == 0:
            snapshot = Snapshot(net.parameters, sgd.velocities, reference_shapes(state.recipe), self._streams)
            writer = CheckpointWriter(run_folder, keep, snapshot, torch.tensor(data.info.mean_hwc))
            self._saving = Saving(writer, report, checkpoint_minutes, self._check_own_answers)

    def train(self) -> Outcome:
        """Train to the end, a limit or a signal, and save.

        Raises LoaderError and RankLost once the run is saved, SaveError if that checkpoint cannot be written, and
        Diverged, without saving; ToldByAnother for another rank's.
        """
        if self.state.step == 0:
            self._shown.filters(self.state.recipe, 0)
        with self._saving:
            try:
                return self._train()
            except NotFinite as spoilt:
                raise self._diverged(f"{spoilt} is no longer finite") from None

    def _train(self) -> Outcome:
        try:
            while not self._plan.is_at_end(self.state):
                self.train_epoch()
                if self._plan.is_epoch_trained(self.state):
                    self.finish_epoch(*self.validate())
        except StopRequested as stop:
            return self._outcome(stop.signal_number)
        except LoaderError as error:
            raise LoaderError(f"{error}; {self._last_words()}") from error
        except ToldByAnother as error:
            raise ToldByAnother(f"{error}; {self._last_words()}", error.exit_code) from error
        except RankLost as error:
            if self._together.world.rank > 0:
                raise
            raise RankLost(f"{error}; {self._save_alone()}") from error
        return self._outcome(None)

    def train_epoch(self) -> None:
        self._report.begin_epoch(self._tally)
        while not self._plan.is_epoch_trained(self.state) and not self._plan.is_at_last_step(self.state):
            saves = self.train_step()
            if self._saving.is_written:
                self._settle()
            if saves:
                self.save_soon()
        self._read_queued_step()

    def train_step(self) -> bool:
        """Queue one batch's forward, backward and update; then read the loss of the step before.

        Returns True if a checkpoint is due.
        """
        started_s = time.monotonic()
        if self._profile is not None:
            self._profile.before_step()
        turn = self._next_turn()
        queued = self._queue_gradients(turn.fed)
        self._saving.hold_update()
        self._sgd.step(self._schedule.rates(self.state.epoch))
        self._read_queued_step()
        self._queued, self._finite.last = queued, turn.fed
        self._record(turn, queued.images)
        step_s = time.monotonic() - started_s
        self._tally.seconds += step_s
        if self._profile is not None:
            self._profile.after_step(step_s, turn.waits.total / 1e6)
        return turn.saves

    def _queue_gradients(self, fed: DeviceBatch) -> QueuedStep:
        whole = self._together.share.whole(self.state.first, self._data.info.records)
        numbers = self._step(fed.inputs(self._net), fed.labels, step=self.state.step, whole=whole)
        by_part = AsyncResult(numbers, self._streams)
        queued = QueuedStep(self._together.world, by_part, whole, self._shown.choose(fed))
        if not self._streams.queues(self._net.loss_device):
            queued.read()  # before the update: if a rank is lost, weights, state and sums are those of the step before
        return queued

    def _record(self, turn: Turn, images: int) -> None:
        """Record the step in state and tally; the device may still be computing."""
        state, rolling = self.state, None
        if turn.digests is not None and (state.first == 0 or state.epoch_digest is not None):
            rolling = digest.roll(bytes.fromhex(state.epoch_digest or ""), turn.digests).hex()
        first, step = state.first + images, state.step + 1
        self.state = dataclasses.replace(state, first=first, step=step, epoch_digest=rolling)
        self._tally.replaced += turn.replaced
        self._tally.came_decoded += turn.came_decoded
        self._tally.waits += turn.waits

    def validate(self) -> tuple[Evaluation | None, float]:
        """Errors on the validation set, if any, and the seconds that took. Raises Diverged."""
        if not self._data.validates:
            self._check_answers()
            return None, 0.0
        self._report.validating(self.state.epoch)
        started_s = time.monotonic()
        batches = self._together.each(self._data.validation(self._net), self._data.clock)
        evaluation = evaluate(self._net, batches, self._data.validation_cuts(), self._together.world)
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the validation loss is {evaluation.loss}")
        self._finite.note(self.state.step)
        self._saving.decide()
        return evaluation, time.monotonic() - started_s

    def finish_epoch(self, evaluation: Evaluation | None, seconds: float) -> None:
        """Report the epoch, move on to the next, begin to save. A new best counts only if it is saved."""
        self._settle()
        done, rate = self.state, self._learning_rate()
        self._report.epoch(done, self._data.spec, rate, self._tally, evaluation, seconds)
        is_best = evaluation is not None and self._observe(evaluation)
        self._shown.filters(done.recipe, done.epoch + 1)
        self._report.course(self.state, self._tally, rate, self._schedule.outlook(done.epoch + 1), self._data.loaders)
        self.state = dataclasses.replace(self.state, epoch=done.epoch + 1, first=0, epoch_digest=None)
        self._tally = Tally()
        self.save_soon(Best(done.best_error, done.best_epoch) if is_best else None)

    def _observe(self, evaluation: Evaluation) -> bool:
        self._evaluation, error = evaluation, evaluation.top1_error
        self._schedule.observe(error)
        is_best = self.state.best_error is None or error < self.state.best_error
        if is_best:
            self.state = dataclasses.replace(self.state, best_error=error, best_epoch=self.state.epoch)
        return is_best

    def save(self) -> Path:
        """Write a checkpoint of this moment unless there is one, and wait for it.

        Raises SaveError, and Diverged or NotFinite if the weights, updated since the last loss, are no good.
        """
        self._read_queued_step()
        if self._resumed_from is not None and self.state.position == self._began:
            return self._resumed_from
        self._check_answers()
        return path_on_rank_0(self._together.world, self._write)

    def _write(self) -> Path:
        self._settle(ends=True)
        self._begin_saving()
        return self._saving.end()

    def save_soon(self, best_before: Best | None = None) -> None:
        """Begin to write a checkpoint of this moment; with `best_before`, as better than that."""
        self._read_queued_step()
        self._settle()
        self._begin_saving(best_before)

    def _begin_saving(self, best_before: Best | None = None) -> None:
        self.state = dataclasses.replace(
            self.state,
            schedule=self._schedule.state,
            tally=dataclasses.replace(self._tally),
            stream=self._data.stream_name(self.state.epoch),
            decoder=self._data.info.decoder,
        )
        self._saving.begin(self.state, answers=self._finite.is_known(self.state.step), best_before=best_before)

    def _settle(self, ends: bool = False) -> None:
        self.state = self._saving.settle(self.state, ends=ends or self._plan.is_at_end(self.state))

    def _last_words(self) -> str:
        try:
            return f"the run is saved in {self.save()}; to continue: {self._resume}"
        except (SaveError, ToldByAnother) as error:
            return str(error)

    def _save_alone(self) -> str:
        """On rank 0, if the others are lost; says what came of it."""
        if self._queued is not None and not self._queued.is_read:
            return "the steps since the last checkpoint are lost"
        self._together.go_alone()
        return self._last_words()

    def _next_turn(self) -> Turn:
        if self._batches is None:
            self._batches = self._data.training(self._net, self.state.epoch, self.state.first)
        turn = self._together.next(self._batches, self._data.clock, saves=self._saving.is_due)
        assert turn is not None, "the stream ends with the last epoch"
        return turn

    def _read_queued_step(self) -> None:
        """Add the queued step's loss and error to the tally, once the device is there."""
        if self._queued is None:
            return
        loss, error = self._queued.read()
        step, self._queued = self._queued, None
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self._saving.decide()  # its weights gave this loss, or are older
        self._tally.images += step.images
        self._tally.loss_sum += loss * step.images
        self._tally.error_sum += error * step.images
        self._report.step(self.state.step, self.state.epoch, loss, self._learning_rate(), self._tally)
        self._shown.inputs(step.shown, self.state.epoch)

    def _check_answers(self) -> None:
        if not self._finite.holds(self.state.step):
            raise self._diverged("the network answers with nan")
        self._saving.decide()

    def _check_own_answers(self) -> None:
        if self._finite.holds_here():
            self._saving.decide()

    def _diverged(self, what: str) -> AlexNetError:
        self._saving.abandon()
        if self._together.world.rank > 0:
            return ToldByAnother(what, AlexNetError.exit_code)
        rate = self._learning_rate()
        return diverged(what, self.state, self._run_folder, rate, self._resumed_from, self._resume)

    def _learning_rate(self) -> float:
        return self._schedule.outlook(self.state.epoch).rate

    def _outcome(self, signal_number: int | None) -> Outcome:
        return Outcome(self.state, self._evaluation, self.save(), signal_number, resume=self._resume)
