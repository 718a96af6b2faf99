"""What a run begins with, or goes on from: a recipe, weights, a checkpoint; and the refusal of what does not fit."""

import dataclasses
import logging

from common.errors import UsageError
from common.spec import StreamInfo
from trainer.checkpoints.changes import check_fits, stored_recipe
from trainer.checkpoints.checkpoint import Checkpoint, State
from trainer.checkpoints.resume import (
    Found,
    check_not_begun,
    check_same_data,
    check_same_stream,
    load_named,
    newest_whole,
)
from trainer.feeding.data import TrainingData, training_spec
from trainer.network.precision import make_repeatable
from trainer.recipes.recipe import Recipe
from trainer.training.options import Options, recipe_of

log = logging.getLogger(__name__)


def recipe_to_train(options: Options) -> Recipe:
    """The recipe of the run that the options ask for, begun already or not."""
    return sources_of(options)[2]


def sources_of(options: Options) -> tuple[Found | None, Found | None, Recipe]:
    """What the run goes on from, or which weights it begins with, if either; and its recipe."""
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
        return None, origin, recipe_of(options, stored_recipe(origin.checkpoint.state))
    return None, None, recipe_of(options)


def _resumed_recipe(options: Options, state: State) -> Recipe:
    """The recipe to go on with: the stored one with what the options change, or the one they name.

    Raises UsageError where the weights do not fit it, or where the options want another seed: a run of another seed is
    another run.
    """
    if options.seed not in (None, state.seed):
        raise UsageError(f"--seed {options.seed}: the run to resume has {state.seed}; leave --seed out")
    stored = stored_recipe(state)
    recipe = dataclasses.replace(recipe_of(options, stored), classes=stored.classes)
    check_fits(recipe, stored)
    return recipe


def gone_on(state: State, data: TrainingData) -> State:
    """The state to go on from with `data`, whose recipe may be another by now. Raises CheckpointError."""
    check_same_data(state, data.info)
    stored = stored_recipe(state)
    sigma = stored.current_phase(state.epoch).sigma
    then = training_spec(stored, state.seed, sigma, state.on_bad_record).name(data.info.digest, data.info.decoder)
    check_same_stream(state, then)
    if data.stream_name(state.epoch, state.on_bad_record) == then:
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
