"""The training loop: train an epoch, validate, save; stop at the end, at a limit or on a signal.

The host never waits for the device inside a step: the loss of step k is read once step k + 1 is queued.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import digest
from common.client.batch import Batch
from common.errors import Diverged, LoaderError, SaveError
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
from trainer.training.outcome import Outcome, diverged
from trainer.training.profile import Profile
from trainer.training.report import Plan, Report
from trainer.training.saving import Best, Saving
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd
from trainer.training.stopping import StopRequested

log = logging.getLogger(__name__)

SHOWN = 16  # images of an epoch's first batch, for TensorBoard


@dataclass(frozen=True, slots=True, eq=False)
class _QueuedStep:
    loss_and_error: AsyncResult
    images: int
    shown: Tensor | None


class Trainer:
    """Trains `net` from `state` on; `state` is always that of a checkpoint taken now. `resume`: the command to tell."""

    def __init__(
        self,
        *,
        net: Net,
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
        self._net, self._sgd, self._schedule, self._data = net, sgd, schedule, data
        self._run_folder, self._plan, self._report = run_folder, plan, report
        self._profile, self._resumed_from, self._resume = profile, resumed_from, resume
        self.state = state
        self._began = state.position
        self._tally = dataclasses.replace(state.tally) if state.tally else Tally()
        self._streams = Streams()
        self._queued: _QueuedStep | None = None
        self._last: DeviceBatch | None = None  # of the last update, which is tried on it before a save
        self._shown_epoch: int | None = None
        self._batches: Iterator[DeviceBatch] | None = None
        self._evaluation: Evaluation | None = None
        self._snapshot = Snapshot(net.parameters, sgd.velocities, reference_shapes(state.recipe), self._streams)
        self._writer = CheckpointWriter(run_folder, keep, self._snapshot, torch.tensor(data.info.mean_hwc))
        self._saving = Saving(self._writer, report, checkpoint_minutes, self._check_answers)
        self._answering_step: int | None = None  # whose weights are known to answer with numbers

    def train(self) -> Outcome:
        """Train to the end, a limit or a signal, and save.

        Raises LoaderError once the run is saved, SaveError if that checkpoint cannot be written, and Diverged, without
        saving.
        """
        if self.state.step == 0:
            self._show_filters(0)
        with self._saving:
            try:
                return self._train()
            except NotFinite as spoilt:
                raise self._diverged(f"{spoilt} is no longer finite") from None

    def _train(self) -> Outcome:
        try:
            while not self._is_at_end():
                self.train_epoch()
                if self._is_epoch_trained():
                    self.finish_epoch(*self.validate())
        except StopRequested as stop:
            return self._outcome(stop.signal_number)
        except LoaderError as error:
            raise LoaderError(f"{error}; {self._last_words()}") from error
        return self._outcome(None)

    def train_epoch(self) -> None:
        self._report.begin_epoch(self._tally)
        while not self._is_epoch_trained() and not self._at_last_step():
            self.train_step()
            if self._writer.is_done:
                self._settle()
            if self._saving.is_due:
                self.save_soon()
        self._read_queued_step()

    def train_step(self) -> None:
        """Queue one batch's forward, backward and update; then read the loss of the step before."""
        started_s, waits = time.monotonic(), self._data.clock.waits
        if self._profile is not None:
            self._profile.before_step()
        fed = self._next_batch()
        loss_and_error = self._net.train_step(fed.inputs(self._net), fed.labels, step=self.state.step)
        arriving = AsyncResult(loss_and_error, self._streams)
        self._snapshot.hold_update()
        self._sgd.step(self._schedule.rates(fed.batch.epoch))
        self._read_queued_step()
        self._queued = _QueuedStep(arriving, len(fed), self._to_show(fed))
        self._last = fed
        self._record(fed.batch)
        step_s, waits = time.monotonic() - started_s, self._data.clock.waits - waits
        self._tally.seconds += step_s
        self._tally.waits += waits
        if self._profile is not None:
            self._profile.after_step(step_s, waits.total / 1e6)

    def _record(self, batch: Batch) -> None:
        """Record the step in the state; the device may still be computing."""
        state, rolling = self.state, None
        if batch.digests is not None and (batch.first == 0 or state.epoch_digest is not None):
            rolling = digest.roll(bytes.fromhex(state.epoch_digest or ""), batch.digests).hex()
        first, step = batch.first + len(batch), state.step + 1
        self.state = dataclasses.replace(state, first=first, step=step, epoch_digest=rolling)
        self._tally.replaced += len(batch.replaced)
        self._tally.came_decoded += len(batch) - batch.timeline.decoded if batch.timeline is not None else 0

    def validate(self) -> tuple[Evaluation | None, float]:
        """Errors on the validation set, if any, and the seconds that took. Raises Diverged."""
        if not self._data.validates:
            self._check_answers()
            return None, 0.0
        self._report.validating(self.state.epoch)
        started_s = time.monotonic()
        evaluation = evaluate(self._net, self._data.validation(self._net))
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the validation loss is {evaluation.loss}")
        self._note_answers()
        return evaluation, time.monotonic() - started_s

    def finish_epoch(self, evaluation: Evaluation | None, seconds: float) -> None:
        """Report the epoch, move on to the next, begin to save. A new best counts only if it is saved."""
        self._settle()
        done, rate = self.state, self._learning_rate()
        self._report.epoch(done, self._data.spec, rate, self._tally, evaluation, seconds)
        is_best = evaluation is not None and self._observe(evaluation)
        self._show_filters(done.epoch + 1)
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
        self._saving.begin(self.state, answers=self._answering_step == self.state.step, best_before=best_before)

    def _settle(self, ends: bool = False) -> None:
        self.state = self._saving.settle(self.state, ends=ends or self._is_at_end())

    def _last_words(self) -> str:
        try:
            return f"the run is saved in {self.save()}; to continue: {self._resume}"
        except SaveError as error:
            return str(error)

    def _next_batch(self) -> DeviceBatch:
        if self._batches is None:
            self._batches = self._data.training(self._net, self.state.epoch, self.state.first)
        return next(self._batches)

    def _read_queued_step(self) -> None:
        """Add the queued step's loss and error to the tally, once the device is there."""
        if self._queued is None:
            return
        step, self._queued = self._queued, None
        loss, error = step.loss_and_error.read().tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self._writer.decide(accepted=True)  # its weights gave this loss, or are older
        self._tally.images += step.images
        self._tally.loss_sum += loss * step.images
        self._tally.error_sum += error * step.images
        self._report.step(self.state.step, self.state.epoch, loss, self._learning_rate(), self._tally)
        if step.shown is not None:
            self._report.inputs(self.state.epoch, self._data.visible(step.shown, self.state.epoch))

    def _check_answers(self) -> None:
        untried = None if self._answering_step == self.state.step else self._last
        if untried is not None and not bool(self._net.predict(untried.inputs(self._net)).isfinite().all()):
            raise self._diverged("the network answers with nan")
        self._note_answers()

    def _note_answers(self) -> None:
        self._answering_step = self.state.step
        self._writer.decide(accepted=True)

    def _diverged(self, what: str) -> Diverged:
        self._writer.abandon()
        rate = self._learning_rate()
        return diverged(what, self.state, self._run_folder, rate, self._resumed_from, self._resume)

    def _to_show(self, fed: DeviceBatch) -> Tensor | None:
        if not self._report.shows_images or self._shown_epoch == fed.batch.epoch:
            return None
        self._shown_epoch = fed.batch.epoch
        return fed.inputs(self._net)[0][:SHOWN]

    def _show_filters(self, epochs_done: int) -> None:
        if self._report.shows_images:
            recipe = self.state.recipe
            weights = self._net.gather()[f"{recipe.conv[0].name}.weight"]
            self._report.filters(epochs_done, weights.numpy(), recipe.columns)

    def _learning_rate(self) -> float:
        return self._schedule.outlook(self.state.epoch).rate

    def _is_epoch_trained(self) -> bool:
        return self.state.first >= self._data.info.records

    def _is_at_end(self) -> bool:
        return self.state.epoch >= self._plan.epochs or self._at_last_step()

    def _at_last_step(self) -> bool:
        return self._plan.last_step is not None and self.state.step >= self._plan.last_step

    def _outcome(self, signal_number: int | None) -> Outcome:
        return Outcome(self.state, self._evaluation, self.save(), signal_number, resume=self._resume)
