"""Run initialisation: fresh, --init or --resume."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from common.errors import UsageError
from common.spec import DigestUse, OnBadRecord
from trainer.checkpoints.changes import Changes, changes_of, check_fits, tell
from trainer.checkpoints.resume import (
    Found,
    check_not_begun,
    check_same_data,
    check_same_stream,
    is_begun,
    load_named,
    newest_whole,
)
from trainer.checkpoints.state import State, check_resumable
from trainer.device.devices import Precision, default_precision, make_repeatable, own_cores
from trainer.feeding.data import TrainingData, training_spec
from trainer.ranks.world import World
from trainer.recipes.derived import Derived, derived, first_rate
from trainer.recipes.recipe import Recipe
from trainer.training.agreement import shared
from trainer.training.rank_options import check_ranks
from trainer.training.schedule import Schedule
from trainer.training.train_options import TrainOptions, original_of, recipe_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The recipe to train, and the checkpoint to resume or take weights from."""

    derived: Derived
    resumed: Found | None = None
    init: Found | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    seed: int
    data_seed: int
    threads: int
    ranks: int
    parts: int
    precision: Precision
    on_bad_record: OnBadRecord
    digests: DigestUse


def start_of(options: TrainOptions, world: World | None = None) -> Start:
    """The start that the options ask for; rank 0 reads the checkpoint. Raises UsageError and CheckpointError."""
    world = world or World.alone()
    if options.resume and options.init is not None:
        raise UsageError("--resume continues a run, --init begins a new one: leave one of them out")
    if options.resume and options.folder is None:
        raise UsageError("--resume needs --run, the folder of the run to resume")
    if (found := shared(world, lambda: _resumed(options))) is not None:
        return Start(_resumed_recipe(options, found.checkpoint.state), resumed=found)
    if (origin := shared(world, lambda: load_named(options.init) if options.init else None)) is not None:
        return Start(_changed(options, dataclasses.replace(origin.checkpoint.state.derived, rate=None)), init=origin)
    return Start(recipe_of(options))


def _resumed(options: TrainOptions) -> Found | None:
    if options.folder is None:
        return None
    if options.resume or (options.resume_if_begun and is_begun(options.folder)):
        return newest_whole(options.folder)
    check_not_begun(options.folder)
    return None


def settings_of(options: TrainOptions, before: State | None, device: torch.device, world: World) -> Settings:
    """The settings of a run that resumes from `before`, if any; sets torch's threads. Raises UsageError."""
    stored = before.threads if before else None
    threads = make_repeatable(options.threads or stored or own_cores(world.local_ranks))  # sums depend on them
    if stored not in (None, threads):
        log.info("%d threads instead of %s: sums may round differently", threads, stored)
    seed = options.seed or 0
    data_seed = seed if options.data_seed is None else options.data_seed
    return Settings(
        seed=before.seed if before else seed,
        data_seed=before.stream_seed if before else data_seed,
        threads=threads,
        ranks=world.ranks,
        parts=_parts(options, before, world.ranks),
        precision=options.precision or (before.precision if before else default_precision(device)),
        on_bad_record=options.on_bad_record or (before.on_bad_record if before else "replace"),
        digests=options.digests or (before.digests if before else "off"),
    )


def _parts(options: TrainOptions, before: State | None, ranks: int) -> int:
    """The run's own, or as many as ranks if these do not divide them."""
    stored = before.parts if before else None
    kept = stored if stored is not None and stored % ranks == 0 else ranks
    parts = options.parts or kept
    check_ranks(ranks, parts)
    if stored not in (None, parts):
        log.info("a batch in %d parts instead of %s: sums round differently", parts, stored)
    return parts


def starting_state(start: Start, settings: Settings, data: TrainingData) -> State:
    """The state to train on from. Raises CheckpointError if `data` does not continue a resumed run."""
    made = start.derived
    decided: dict[str, Any] = {
        "recipe": dataclasses.replace(made.recipe, classes=len(data.info.classes)),
        "original": made.original,
        "asked_rate": made.rate,
        "rate_factor": made.factor,
        **dataclasses.asdict(settings),
    }
    if start.resumed is not None:
        return dataclasses.replace(_resumed_state(start.resumed.checkpoint.state, data), **decided)
    dataset, classes = data.info.digest.hex(), data.info.classes
    return State(epoch=0, first=0, step=0, dataset=dataset, class_names=classes, **decided)


def _resumed_state(state: State, data: TrainingData) -> State:
    """The checkpoint's state; without the epoch's digest if the stream changes in its middle."""
    check_resumable(state)
    check_same_data(state, data.info)
    sigma = state.recipe.current_phase(state.epoch).sigma
    decoder = state.decoder or data.info.decoder  # older checkpoints do not name the decoder
    then = training_spec(state.recipe, state.stream_seed, sigma, state.on_bad_record).name(data.info.digest, decoder)
    check_same_stream(state, then)
    if data.stream_name(state.epoch, state.on_bad_record, decoder) == then:
        return state
    log.info("the training images are of another stream from here on; their order is the same")
    return dataclasses.replace(state, epoch_digest=None)


def is_done(options: TrainOptions, recipe: Recipe, state: State) -> bool:
    return state.epoch >= recipe.epochs or (options.steps is not None and state.step >= options.steps)


def all_changes(before: State, after: State) -> Changes:
    changes = changes_of(before, after)
    then, now = (_rate_now(state.recipe, before) for state in (before, after))
    if then != now:
        changes["learning_rate"] = then, now
    tell(changes)
    if now > then:
        log.warning("the learning rate goes up: %g from here on, instead of %g; --lr names another", now, then)
    return changes


def _resumed_recipe(options: TrainOptions, state: State) -> Derived:
    """The stored recipe with the options' changes. Raises UsageError for another seed, or if the weights do not fit."""
    if options.seed not in (None, state.seed):
        raise UsageError(f"--seed {options.seed}: the run to resume has {state.seed}; leave --seed out")
    if options.data_seed not in (None, state.stream_seed):
        raise UsageError(
            f"--data-seed {options.data_seed}: the run to resume has {state.stream_seed}; leave --data-seed out"
        )
    changed = _changed(options, state.derived, lambda recipe: _rate_now(recipe, state))
    recipe = dataclasses.replace(changed.recipe, classes=state.recipe.classes)
    check_fits(recipe, state.recipe)
    return dataclasses.replace(changed, recipe=recipe)


def _changed(options: TrainOptions, begun: Derived, rate_now: Callable[[Recipe], float] = first_rate) -> Derived:
    """`begun` with the options' changes; an --lr is applied once."""
    original, epochs = original_of(options, begun.original), options.epochs
    if options.recipe is None:
        return derived(original, epochs=epochs, rate=options.rate, begun=begun, rate_now=rate_now)
    before = begun if options.rate is not None and options.rate == begun.rate else None
    return derived(original, epochs=epochs or original.epochs, rate=options.rate, begun=before, rate_now=rate_now)


def _rate_now(recipe: Recipe, state: State) -> float:
    return Schedule(recipe, state.schedule).rate(state.epoch)
