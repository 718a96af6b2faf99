"""A run's beginning: its recipe, the weights or checkpoint it goes on from, and the refusal of what does not fit."""

import dataclasses
import logging
from collections.abc import Callable

from common.errors import UsageError
from common.spec import StreamInfo
from trainer.checkpoints.changes import Changes, changes_of, check_fits, stored_derived, stored_recipe, tell
from trainer.checkpoints.checkpoint import Checkpoint, State
from trainer.checkpoints.resume import (
    Found,
    check_not_begun,
    check_same_data,
    check_same_stream,
    load_named,
    newest_whole,
)
from trainer.device.precision import make_repeatable
from trainer.feeding.data import TrainingData, training_spec
from trainer.recipes.derived import Derived, derived, first_rate
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Schedule
from trainer.training.train_options import Options, original_of, recipe_of

log = logging.getLogger(__name__)


def recipe_to_train(options: Options) -> Recipe:
    """The recipe of the run that the options ask for, begun already or not."""
    return sources_of(options)[2].recipe


def sources_of(options: Options) -> tuple[Found | None, Found | None, Derived]:
    """The checkpoint that the run goes on from, or whose weights it begins with, if either; and its recipe."""
    if options.resume and options.init is not None:
        raise UsageError("--resume goes on with a run, --init begins a new one: leave one of them out")
    if options.resume:
        if options.folder is None:
            raise UsageError("--resume needs --run, the folder of the run to resume")
        found = newest_whole(options.folder)
        return found, None, _resumed_recipe(options, found.checkpoint.state)
    if options.folder is not None:
        check_not_begun(options.folder)
    if options.init is not None:
        origin = load_named(options.init)
        begun = stored_derived(origin.checkpoint.state)
        return None, origin, _changed(options, dataclasses.replace(begun, rate=None))
    return None, None, recipe_of(options)


def _resumed_recipe(options: Options, state: State) -> Derived:
    """The recipe to go on with: the stored one with what the options change, or the one they name.

    Raises UsageError if the weights do not fit it, or if the options want another seed: a run of another seed is
    another run.
    """
    if options.seed not in (None, state.seed):
        raise UsageError(f"--seed {options.seed}: the run to resume has {state.seed}; leave --seed out")
    begun = stored_derived(state)
    changed = _changed(options, begun, lambda recipe: _rate_now(recipe, state))
    recipe = dataclasses.replace(changed.recipe, classes=begun.recipe.classes)
    check_fits(recipe, begun.recipe)
    return dataclasses.replace(changed, recipe=recipe)


def _changed(options: Options, begun: Derived, rate_now: Callable[[Recipe], float] = first_rate) -> Derived:
    """A named recipe takes the place of `begun` with all that was asked, but for an --lr that is asked for again."""
    original, epochs = original_of(options, begun.original), options.epochs
    if options.recipe is None:
        return derived(original, epochs=epochs, rate=options.rate, begun=begun, rate_now=rate_now)
    before = begun if options.rate is not None and options.rate == begun.rate else None
    return derived(original, epochs=epochs or original.epochs, rate=options.rate, begun=before, rate_now=rate_now)


def _rate_now(recipe: Recipe, state: State) -> float:
    """The learning rate with which a run at `state` goes on, if its recipe is `recipe`."""
    schedule = Schedule(recipe)
    schedule.state = state.schedule
    return schedule.rate(state.epoch)


def all_changes(before: State, after: State) -> Changes:
    """Changes of a resumed run from here on, its learning rate too; each is logged."""
    changes = changes_of(before, after)
    then, now = (_rate_now(stored_recipe(state), before) for state in (before, after))
    if then != now:
        changes["learning_rate"] = then, now
    tell(changes)
    if now > then:
        log.warning("the learning rate goes up: %g from here on, instead of %g; --lr names another", now, then)
    return changes


def is_done(options: Options, recipe: Recipe, state: State) -> bool:
    """Return True if a run at `state` has nothing left to train."""
    return state.epoch >= recipe.epochs or (options.steps is not None and state.step >= options.steps)


def gone_on(state: State, data: TrainingData) -> State:
    """The state to go on from with `data`, whose recipe may be another by now. Raises CheckpointError."""
    check_same_data(state, data.info)
    stored = stored_recipe(state)
    sigma = stored.current_phase(state.epoch).sigma
    decoder = state.decoder or data.info.decoder  # an older program's checkpoint tells less, and of it made its name
    then = training_spec(stored, state.seed, sigma, state.on_bad_record).name(data.info.digest, decoder)
    check_same_stream(state, then)
    if data.stream_name(state.epoch, state.on_bad_record, decoder) == then:
        return state
    log.info("the training pictures are of another stream from here on; their order is the same")
    return dataclasses.replace(state, epoch_digest=None)


def threads_of(options: Options, resumed: Checkpoint | None) -> int:
    """The threads to compute with on the CPU: on a resume the run's own, since sums depend on them."""
    stored = resumed.state.threads if resumed else None
    threads = make_repeatable(options.threads or stored)
    if stored not in (None, threads):
        log.info("%d threads instead of %s: sums may round differently", threads, stored)
    return threads


def new_state(seed: int, info: StreamInfo) -> State:
    """The state before the first step; what the options decide is filled in by `run`."""
    return State(
        epoch=0,
        first=0,
        step=0,
        seed=seed,
        recipe={},
        dataset=info.digest.hex(),
        class_names=info.classes,
        threads=0,
    )
