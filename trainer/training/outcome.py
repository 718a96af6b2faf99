"""The end of a run."""

import signal
from dataclasses import dataclass
from pathlib import Path

from common.cli.progress import percent
from common.errors import Diverged
from trainer.checkpoints import checkpoint
from trainer.checkpoints.state import State
from trainer.evaluation.intervals import in_percent
from trainer.evaluation.validation import Evaluation
from trainer.training.report import errors_of


@dataclass(frozen=True, slots=True)
class Outcome:
    state: State
    evaluation: Evaluation | None
    checkpoint: Path
    stopped_by: int | None = None
    idle: bool = False
    resume: str = ""  # the command that continues


def last_line(outcome: Outcome) -> str:
    state, evaluation, folder = outcome.state, outcome.evaluation, outcome.checkpoint.parent
    epochs = state.recipe.epochs
    if outcome.idle:
        best = "" if state.best_error is None else f"; best top-1 error {percent(state.best_error)}"
        done = f"{state.epoch} epochs, {state.step} steps"
        return f"nothing to train: {done} were done already{best}; {folder} is left as it is"
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        return (
            f"stopped by {name} after step {state.step}; saved in {outcome.checkpoint}; to continue: {outcome.resume}"
        )
    if state.epoch < epochs:
        errors = f", validation {_errors_with_interval(evaluation)}" if evaluation else ""
        return f"stopped after step {state.step}, in epoch {state.epoch + 1} of {epochs}{errors}; run in {folder}"
    if evaluation is not None:
        return f"trained {epochs} epochs: validation {_errors_with_interval(evaluation)}; run in {folder}"
    return f"trained {epochs} epochs, without validation; run in {folder}"


def _errors_with_interval(evaluation: Evaluation) -> str:
    top1 = percent(evaluation.top1_error)
    interval = in_percent(evaluation.top1_error, evaluation.images)
    return errors_of(evaluation).replace(top1, f"{top1} (95 %: {interval})", 1)


def diverged(
    what: str, state: State, run_folder: Path, rate: float, resumed_from: Path | None, resume: str
) -> Diverged:
    """The error that says `what`, and how to resume from the last checkpoint."""
    saved = checkpoint.all_in(run_folder)
    if not saved:
        advice = "nothing was saved; start again with a lower --lr"
    else:
        advice = f"{saved[-1]} is the last good checkpoint; to continue from it: {resume} --lr {rate / 10:g}"
        if saved[-1] == resumed_from and len(saved) > 1:
            advice += f", or from {saved[-2]} once {saved[-1].name} is moved away"
    return Diverged(f"{what} at step {state.step} (epoch {state.epoch + 1}): training diverged; {advice}")
