"""The training loop. Its methods are its steps: train an epoch, validate, save; and go on, or stop where that is asked.

The host never waits for the device inside a step: the loss of step k is read after step k + 1 has been queued. So what
is printed is one step late, and a step that went wrong is noticed one later; before a checkpoint all is read.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import digest
from common.client.batch import Batch
from common.errors import Diverged, LoaderError, SaveError
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint, not_finite
from trainer.checkpoints.state import State, Tally
from trainer.device.streams import Streams
from trainer.evaluation.validation import Evaluation, evaluate
from trainer.feeding.data import TrainingData
from trainer.feeding.feed import DeviceBatch
from trainer.feeding.upload import LateNumbers
from trainer.network.net import Net
from trainer.training.profile import Profile
from trainer.training.report import Report
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd
from trainer.training.stopping import StopRequested

log = logging.getLogger(__name__)

PICTURES = 16  # of an epoch's first batch, to be looked at


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop and when to save: `last_step` None means the recipe's last epoch; minutes between checkpoints, and
    how many of them are kept.
    """

    epochs: int
    last_step: int | None
    checkpoint_minutes: float
    keep: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a training: its own, a limit or a signal (its number); the last validation of this call.

    idle   nothing was left to train, so nothing was written
    """

    state: State
    evaluation: Evaluation | None
    checkpoint: Path
    stopped_by: int | None = None
    idle: bool = False


class Trainer:
    """Trains `net` from `state` on; `state` is always what a checkpoint taken now would hold."""

    def __init__(
        self,
        *,
        net: Net,
        sgd: Sgd,
        schedule: Schedule,
        data: TrainingData,
        state: State,
        run_folder: Path,
        limits: Limits,
        report: Report,
        profile: Profile | None,
        resumed_from: Path | None,
    ) -> None:
        self._net, self._sgd, self._schedule, self._data = net, sgd, schedule, data
        self._run_folder, self._limits, self._report = run_folder, limits, report
        self._profile, self._resumed_from = profile, resumed_from
        self.state = state
        self._began = _position(state)
        self._tally = dataclasses.replace(state.tally) if state.tally else Tally()
        self._streams = Streams()
        self._late: tuple[LateNumbers, int, Tensor | None] | None = None  # of the last step, see train_step
        self._last: DeviceBatch | None = None  # what the last update was made of, and what it is tried on before a save
        self._shown: int | None = None  # the epoch whose first pictures were shown
        self._batches: Iterator[DeviceBatch] | None = None
        self._evaluation: Evaluation | None = None
        self._saved: tuple[State, Path] | None = None
        self._saved_at_s = time.monotonic()

    def train(self) -> Outcome:
        """To the end, a limit or a signal; a checkpoint is left behind in each case.

        Raises LoaderError once the run is saved, SaveError if that last checkpoint cannot be written, and Diverged if
        the network no longer computes numbers, which is not saved.
        """
        if self.state.step == 0:
            self._show_filters(0)
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
        """To the end of the epoch's training, or to the last step allowed."""
        self._report.begin_epoch(self._tally)
        while not self._is_epoch_trained() and not self._at_last_step():
            self.train_step()
            if time.monotonic() - self._saved_at_s > 60 * self._limits.checkpoint_minutes:
                self._save_if_possible()
        self._read_late_loss()

    def train_step(self) -> None:
        """One batch: forward, backward, update; then the loss of the step before."""
        started_s, waits = time.monotonic(), self._data.clock.waits
        if self._profile is not None:
            self._profile.before_step()
        fed = self._next_batch()
        told = self._net.train_step(fed.inputs(self._net), fed.labels, step=self.state.step)
        late = LateNumbers(told, self._streams)
        self._sgd.step(self._schedule.rates(fed.batch.epoch))
        self._read_late_loss()
        self._late = late, len(fed), self._to_show(fed)  # loss and error, number of pictures, some of them
        self._last = fed
        self._note(fed.batch)
        step_s, waits = time.monotonic() - started_s, self._data.clock.waits - waits
        self._tally.seconds += step_s
        self._tally.waits += waits
        if self._profile is not None:
            self._profile.after_step(step_s, waits.total / 1e6)

    def _note(self, batch: Batch) -> None:
        """The step is done, as far as the host is concerned: it is part of the state."""
        state, rolling = self.state, None
        if batch.digests is not None and (batch.first == 0 or state.epoch_digest is not None):
            rolling = digest.roll(bytes.fromhex(state.epoch_digest or ""), batch.digests).hex()
        first, step = batch.first + len(batch), state.step + 1
        self.state = dataclasses.replace(state, first=first, step=step, epoch_digest=rolling)
        self._tally.replaced += len(batch.replaced)

    def validate(self) -> tuple[Evaluation | None, float]:
        """The errors on the validation set, if there is one, and the seconds that took. Raises Diverged."""
        if not self._data.validates:
            self._check_answers()
            return None, 0.0
        self._report.validating(self.state.epoch)
        started_s = time.monotonic()
        evaluation = evaluate(self._net, self._data.validation(self._net))
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the validation loss is {evaluation.loss}")
        return evaluation, time.monotonic() - started_s

    def finish_epoch(self, evaluation: Evaluation | None, seconds: float) -> None:
        """Tell how the epoch went, move on to the next, save."""
        state = before = self.state
        is_best, rate = False, self._learning_rate()
        self._report.epoch(state, self._data.spec, rate, self._tally, evaluation, seconds)
        if evaluation is not None:
            self._evaluation = evaluation
            self._schedule.observe(evaluation.top1_error)
            is_best = state.best_error is None or evaluation.top1_error < state.best_error
            if is_best:
                state = dataclasses.replace(state, best_error=evaluation.top1_error, best_epoch=state.epoch)
        self._show_filters(state.epoch + 1)
        self._report.course(state, self._tally, rate, self._schedule.outlook(state.epoch + 1), self._data.loaders)
        self.state = dataclasses.replace(state, epoch=state.epoch + 1, first=0, epoch_digest=None)
        self._tally = Tally()
        if not self._save_if_possible(is_best):
            self.state = dataclasses.replace(self.state, best_error=before.best_error, best_epoch=before.best_epoch)

    def save(self) -> Path:
        """Write a checkpoint of this moment, unless it is there already; gives where it lies.

        Raises SaveError, and Diverged if the weights are not finite or do not answer with numbers: the last update
        came after the last loss.
        """
        self._read_late_loss()
        if self._resumed_from is not None and _position(self.state) == self._began:
            return self._resumed_from
        self._report.sync()  # a resume finds the history of its checkpoint whole
        self.state = dataclasses.replace(
            self.state,
            schedule=self._schedule.state,
            tally=dataclasses.replace(self._tally),
            stream=self._data.stream_name(self.state.epoch),
            decoder=self._data.info.decoder,
        )
        if self._saved is None or self._saved[0] != self.state:
            weights, velocities = self._net.gather(), self._net.gather(self._sgd.velocities)
            self._check_finite(weights, velocities)
            mean_hwc = torch.tensor(self._data.info.mean_hwc)
            whole = Checkpoint(self.state, weights, velocities, mean_hwc)
            path = checkpoint.save(self._run_folder, whole, self._limits.keep)
            self._saved = self.state, path
        self._saved_at_s = time.monotonic()
        return self._saved[1]

    def _save_if_possible(self, is_best: bool = False) -> bool:
        """Save in the midst of a run, which is worth more than this one checkpoint: a full disk may be mended by the
        time of the next. Gives whether it is saved, as the best too where it is that.
        """
        try:
            path = self.save()
            if is_best:
                checkpoint.save_best(path)
        except SaveError as error:
            self._saved_at_s = time.monotonic()
            if self._is_at_end():
                log.warning("%s; training has come to its end, and saves once more", error)
            else:
                minutes = self._limits.checkpoint_minutes
                log.warning("%s; training goes on, and saves again in %g minutes or at the epoch's end", error, minutes)
            return False
        return True

    def _last_words(self) -> str:
        """Save at the end of a run that failed; what became of that."""
        try:
            return f"the run is saved in {self.save()}, and --resume goes on from there"
        except SaveError as error:
            return str(error)

    def _next_batch(self) -> DeviceBatch:
        if self._batches is None:
            self._batches = self._data.training(self._net, self.state.epoch, self.state.first)
        return next(self._batches)

    def _read_late_loss(self) -> None:
        """Take in loss and error of the last step queued, which waits for the device to have done it."""
        if self._late is None:
            return
        (late, images, seen), self._late = self._late, None
        loss, error = late.read().tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self._tally.images += images
        self._tally.loss_sum += loss * images
        self._tally.error_sum += error * images
        self._report.step(self.state.step, self.state.epoch, loss, self._learning_rate(), self._tally)
        if seen is not None:
            self._report.inputs(self.state.epoch, self._data.visible(seen, self.state.epoch))

    def _check_finite(self, weights: Mapping[str, Tensor], velocities: Mapping[str, Tensor]) -> None:
        """Raises Diverged."""
        if (name := not_finite(weights) or not_finite(velocities)) is not None:
            raise self._diverged(f"{name} is no longer finite")
        self._check_answers()

    def _check_answers(self) -> None:
        """Raises Diverged if the weights, as the last update left them, do not answer with numbers."""
        if self._last is not None and not bool(self._net.predict(self._last.inputs(self._net)).isfinite().all()):
            raise self._diverged("the network answers with nan")

    def _diverged(self, what: str) -> Diverged:
        """The error that says `what`, and how to go on from the last checkpoint, which was seen to be good."""
        state, folder = self.state, self._run_folder
        saved = checkpoint.all_in(folder)
        if not saved:
            advice = "nothing was saved; begin anew with a lower --lr"
        else:
            lower = f"--lr {self._learning_rate() / 10:g}"
            advice = f"{saved[-1]} is the last good checkpoint; --resume --run {folder} {lower} goes on from it"
            if saved[-1] == self._resumed_from and len(saved) > 1:
                advice += f", or from {saved[-2]} once {saved[-1].name} is moved away"
        return Diverged(f"{what} at step {state.step} (epoch {state.epoch + 1}): training diverged; {advice}")

    def _to_show(self, fed: DeviceBatch) -> Tensor | None:
        """Some pictures of an epoch's first batch, if anybody looks at them."""
        if not self._report.shows_pictures or self._shown == fed.batch.epoch:
            return None
        self._shown = fed.batch.epoch
        return fed.inputs(self._net)[0][:PICTURES]

    def _show_filters(self, epochs_done: int) -> None:
        if self._report.shows_pictures:
            recipe = self.state.recipe
            weights = self._net.gather()[f"{recipe.conv[0].name}.weight"]
            self._report.filters(epochs_done, weights.numpy(), recipe.columns)

    def _learning_rate(self) -> float:
        return self._schedule.outlook(self.state.epoch).rate

    def _is_epoch_trained(self) -> bool:
        return self.state.first >= self._data.info.records

    def _is_at_end(self) -> bool:
        return self.state.epoch >= self._limits.epochs or self._at_last_step()

    def _at_last_step(self) -> bool:
        return self._limits.last_step is not None and self.state.step >= self._limits.last_step

    def _outcome(self, signal_number: int | None) -> Outcome:
        return Outcome(self.state, self._evaluation, self.save(), signal_number)


def _position(state: State) -> tuple[int, int, int]:
    return state.epoch, state.first, state.step
