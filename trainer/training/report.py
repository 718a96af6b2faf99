"""Reports of a run."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from common.cli.progress import ProgressLine, duration, percent
from common.client.stream_sessions import Loaders
from common.spec import StreamSpec
from trainer.checkpoints.state import State, Tally
from trainer.evaluation.validation import Evaluation
from trainer.training.board import Board, filters_image, tiled
from trainer.training.contention import Contention
from trainer.training.metrics import Metrics
from trainer.training.schedule import Outlook
from trainer.training.summary import beginning_in_words, cores_in_words, course_in_words, waits_in_words


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run; `last_step` may end it sooner."""

    epochs: int
    records: int
    batch_size: int
    last_step: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.records // self.batch_size)

    def is_epoch_trained(self, state: State) -> bool:
        return state.first >= self.records

    def is_at_last_step(self, state: State) -> bool:
        return self.last_step is not None and state.step >= self.last_step

    def is_at_end(self, state: State) -> bool:
        return state.epoch >= self.epochs or self.is_at_last_step(state)


@dataclass(frozen=True, slots=True)
class Now:
    """Progress; loss, error, speed and `wait_share` are of the epoch so far."""

    epoch: int
    epochs: int
    step_of_epoch: int
    steps_per_epoch: int
    images_per_s: float
    loss: float
    error: float
    wait_share: float
    eta_s: float | None

    def line(self) -> str:
        eta = "" if self.eta_s is None else f"  ETA {duration(self.eta_s)}"
        return (
            f"epoch {self.epoch + 1}/{self.epochs}  step {self.step_of_epoch}/{self.steps_per_epoch}"
            f"  {self.images_per_s:,.0f} images/s  loss {self.loss:.3f}  error {percent(self.error)}"
            f"  waiting for data {percent(self.wait_share)}{eta}"
        )


class Report:
    """Writes to `metrics` and `board` every `every_steps` steps, to `progress` when it is due."""

    def __init__(
        self, metrics: Metrics, progress: ProgressLine, plan: Plan, *, every_steps: int, board: Board | None = None
    ) -> None:
        self.progress, self._board = progress, board
        self._metrics, self._plan, self._every_steps = metrics, plan, every_steps
        self._at_last_line = Tally()
        self._validation_s = 0.0
        self._contention = Contention()

    def begin_epoch(self, tally: Tally) -> None:
        self._contention.begin()
        self._at_last_line = replace(tally)

    def step(self, step: int, epoch: int, loss: float, learning_rate: float, tally: Tally) -> None:
        if step % self._every_steps == 0:
            lately = tally.since(self._at_last_line)
            self._at_last_line = replace(tally)
            self._write(
                "step",
                step=step,
                epoch=epoch,
                loss=loss,
                train_error=lately.error,
                learning_rate=learning_rate,
                images_per_s=lately.images_per_s,
                wait_share=lately.wait_share,
                waits=lately.wait_shares,
                decoded_share=lately.decoded_share,
            )
        if self.progress.is_due():
            self.progress.show(self._now(step, epoch, tally).line())

    def flush(self) -> None:
        self._metrics.flush()

    def fsync(self) -> None:
        self._metrics.fsync()

    @property
    def shows_images(self) -> bool:
        return self._board is not None

    def filters(self, epochs_done: int, weights: npt.NDArray[np.float32], columns: int) -> None:
        """Show the first layer's weights, n x 3 x height x width."""
        if self._board is not None:
            self._board.image("filters", filters_image(weights, columns), epochs_done)

    def inputs(self, epoch: int, images: npt.NDArray[np.uint8]) -> None:
        """Show images that `epoch` begins with, n x height x width x 3."""
        if self._board is not None:
            self._board.image("inputs", tiled(images, 4), epoch + 1)

    def _write(self, kind: str, **line: Any) -> None:
        self._metrics.write(kind, **line)
        if self._board is not None:
            self._board.line(kind, line)

    def validating(self, epoch: int) -> None:
        self.progress.show(f"epoch {epoch + 1}/{self._plan.epochs}  validating")

    def epoch(
        self,
        state: State,
        spec: StreamSpec,
        learning_rate: float,
        tally: Tally,
        evaluation: Evaluation | None,
        seconds: float,
    ) -> None:
        self._validation_s = seconds
        self._write(
            "epoch",
            step=state.step,
            epoch=state.epoch,
            train_loss=tally.loss,
            train_error=tally.error,
            val_loss=evaluation and evaluation.loss,
            val_top1_error=evaluation and evaluation.top1_error,
            val_top5_error=evaluation and evaluation.top5_error,
            learning_rate=learning_rate,
            train_seconds=tally.seconds,
            val_seconds=seconds,
            images_per_s=tally.images_per_s,
            wait_share=tally.wait_share,
            waits=tally.wait_shares,
            decoded_share=tally.decoded_share,
            replaced=tally.replaced,
            digest=state.epoch_digest,
            stream=asdict(spec),
        )
        decoded = f", {percent(tally.decoded_share)} of images served decoded" if tally.came_decoded else ""
        replaced = f", corrupt records replaced: {tally.replaced:,}" if tally.replaced else ""
        errors = f"validation {errors_of(evaluation)}" if evaluation else "no validation"
        self.progress.line(
            f"epoch {state.epoch + 1}/{self._plan.epochs}:"
            f" loss {tally.loss:.3f}, error {percent(tally.error)}, {errors},"
            f" {tally.images_per_s:,.0f} images/s, {duration(tally.seconds + seconds)}{decoded}{replaced}"
        )

    def course(self, state: State, tally: Tally, rate: float, outlook: Outlook, loaders: Loaders) -> None:
        """Summarise the course of training; `outlook` is the next epoch's."""
        lowest = None
        if state.best_error is not None and state.best_epoch is not None:
            lowest = state.best_error, state.best_epoch
        left_s = self._left_s(state.step, state.epoch + 1, 0, tally.images_per_s)
        course = course_in_words(state.epoch, lowest, rate, outlook, left_s)
        decodes_per_s = tally.images_per_s * (1 - tally.decoded_share)
        contention = self._contention.share
        waits = waits_in_words(tally.wait_shares, loaders, decodes_per_s, self._plan.records, contention)
        beginning = beginning_in_words(state.recipe, tally.loss)
        for words in (beginning, course, waits, cores_in_words(contention)):
            if words:
                self.progress.line(f"  {words}")

    def _now(self, step: int, epoch: int, tally: Tally) -> Now:
        plan = self._plan
        step_of_epoch = -(-tally.images // plan.batch_size)
        return Now(
            epoch=epoch,
            epochs=plan.epochs,
            step_of_epoch=step_of_epoch,
            steps_per_epoch=plan.steps_per_epoch,
            images_per_s=tally.images_per_s,
            loss=tally.loss,
            error=tally.error,
            wait_share=tally.wait_share,
            eta_s=self._left_s(step, epoch, tally.images, tally.images_per_s),
        )

    def _left_s(self, step: int, epoch: int, images: int, images_per_s: float) -> float | None:
        plan, epochs_left = self._plan, self._plan.epochs - epoch
        images_left, validations_s = epochs_left * plan.records - images, epochs_left * self._validation_s
        if plan.last_step is not None and (plan.last_step - step) * plan.batch_size < images_left:
            images_left, validations_s = (plan.last_step - step) * plan.batch_size, 0.0
        if images_per_s == 0 or images_left <= 0:
            return None
        return images_left / images_per_s + validations_s


class ReportedByRank0(Report):
    """No report, on another rank than 0."""

    shows_images = False

    def __init__(self) -> None:
        pass

    def begin_epoch(self, *_: object) -> None:
        pass

    def step(self, *_: object, **__: object) -> None:
        pass

    def validating(self, *_: object) -> None:
        pass

    def epoch(self, *_: object, **__: object) -> None:
        pass

    def course(self, *_: object, **__: object) -> None:
        pass


def errors_of(evaluation: Evaluation) -> str:
    """`top-1 error 40.7 %, top-5 error 18.2 %`, or the first alone."""
    top5 = "" if evaluation.top5_error is None else f", top-5 error {percent(evaluation.top5_error)}"
    return f"top-1 error {percent(evaluation.top1_error)}{top5}"
