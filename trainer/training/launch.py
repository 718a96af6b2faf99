"""One run of the trainer, from its options to its outcome: all is opened here, handed to the loop, and closed."""

import contextlib
import dataclasses
import itertools
import logging
import platform
import signal
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.cli.progress import percent, showing_progress
from common.errors import UsageError
from trainer.checkpoints.changes import Changes
from trainer.checkpoints.checkpoint import Checkpoint, State
from trainer.checkpoints.transfer import take_weights
from trainer.device.devices import Devices, describe, devices_of_halves
from trainer.device.precision import default_precision, set_up
from trainer.device.streams import Streams
from trainer.feeding.data import TrainingData, open_client
from trainer.network.build import full_memory_as_error, kind_of_net, placed_net
from trainer.network.net import Net
from trainer.recipes.recipe import Recipe
from trainer.training.board import Board, writer_type
from trainer.training.loop import Limits, Outcome, Trainer
from trainer.training.metrics import Metrics
from trainer.training.profile import Profile, WatchedStreams
from trainer.training.report import Plan, Report, errors_of
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd
from trainer.training.start import all_changes, gone_on, is_done, new_state, sources_of, threads_of
from trainer.training.stopping import StopSignals
from trainer.training.train_options import Options

log = logging.getLogger(__name__)


def run(options: Options) -> Outcome:
    """Train as `options` say. Raises any AlexNetError; the message says what to do."""
    with full_memory_as_error():
        return _run(options)


def _run(options: Options) -> Outcome:
    if options.tensorboard:
        writer_type()  # one that is missing is better known now
    devices = devices_of_halves(options.gpus, options.cpu)
    found, origin, made = sources_of(options)
    recipe, resumed = made.recipe, found.checkpoint if found else None
    if found and is_done(options, recipe, found.checkpoint.state):
        return Outcome(found.checkpoint.state, None, found.path, idle=True)
    seed = resumed.state.seed if resumed else options.seed or 0
    threads = threads_of(options, resumed)
    precision = options.precision or (resumed.state.precision if resumed else default_precision(devices[0]))
    on_bad_record = options.on_bad_record or (resumed.state.on_bad_record if resumed else "replace")
    digests = options.digests or (resumed.state.digests if resumed else "off")
    stop_signals = StopSignals()
    with open_client(options.loaders, options.loaders_file, options.loader_timeout_s, options.keys) as client:
        epoch = resumed.state.epoch if resumed else 0
        data = TrainingData(
            client,
            recipe,
            seed,
            epoch,
            on_bad_record=on_bad_record,
            digests=digests,
            breakable=stop_signals.breakable,
        )
        recipe = dataclasses.replace(recipe, classes=len(data.info.classes))
        state = gone_on(resumed.state, data) if resumed else new_state(seed, data.info)
        state = dataclasses.replace(
            state,
            recipe=dataclasses.asdict(recipe),
            original=dataclasses.asdict(made.original),
            asked_rate=made.rate,
            rate_factor=made.factor,
            threads=threads,
            precision=precision,
            on_bad_record=on_bad_record,
            digests=digests,
        )
        watched = WatchedStreams()
        streams = watched if options.profile else Streams()
        net, sgd, schedule = build(options, recipe, seed, devices, set_up(precision), streams, resumed)
        origins = take_weights(origin, net, data.info.classes) if origin else None
        folder = run_folder(options.folder, recipe.name)
        with (
            Metrics(folder) as metrics,
            showing_progress() as progress,
            stop_signals,
            Board(folder, state.step, state.epoch) if options.tensorboard else contextlib.nullcontext() as board,
            Profile(options.profile, watched, folder) if options.profile else contextlib.nullcontext() as profile,
        ):
            if found:
                found.take_over()
            metrics.rewind(state.step if resumed else -1, state.epoch)
            changes = all_changes(resumed.state, state) if resumed else {}
            say_start(metrics, kind_of_net(options.net, recipe), devices, state, data, changes, origins)
            metrics.sync()  # a disk that is full is better known now than at the first checkpoint
            plan = Plan(recipe.epochs, data.info.records, recipe.batch_size, options.steps)
            report = Report(metrics, progress, plan, every_steps=options.log_steps, board=board)
            limits = Limits(recipe.epochs, options.steps, options.checkpoint_minutes, options.keep)
            path = found.path if found else None
            return Trainer(net, sgd, schedule, data, state, folder, limits, report, profile, path).train()


def build(
    options: Options,
    recipe: Recipe,
    seed: int,
    devices: Devices,
    dtype: torch.dtype,
    streams: Streams,
    resumed: Checkpoint | None,
) -> tuple[Net, Sgd, Schedule]:
    """The network, its optimiser and its schedule, at the start or as the checkpoint has them."""
    graphs = options.cuda_graphs
    net = placed_net(
        options.net,
        recipe,
        seed=seed,
        devices=devices,
        dtype=dtype,
        streams=streams,
        exchange=options.exchange,
        graphs=graphs,
    )
    momentum, weight_decay, decay_biases = recipe.momentum, recipe.weight_decay, recipe.decay_biases
    sgd = Sgd(
        net.parameters,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_biases=decay_biases,
        streams=streams,
        graphs=graphs,
    )
    schedule = Schedule(recipe)
    if resumed is not None:
        net.scatter(resumed.weights)
        net.scatter(resumed.velocities, sgd.velocities)
        schedule.state = resumed.state.schedule
    return net, sgd, schedule


def run_folder(asked: Path | None, recipe_name: str) -> Path:
    """The folder of the run, made if it is not there: --run, or runs/RECIPE-TIME, with a number where that is taken."""
    try:
        if asked is not None:
            asked.mkdir(parents=True, exist_ok=True)
            return asked
        return _new_folder(f"{recipe_name}-{datetime.now():%Y%m%d-%H%M%S}")
    except OSError as error:
        raise UsageError(f"the run's folder {error.filename} cannot be made: {error.strerror} (--run)") from None


def _new_folder(stem: str) -> Path:
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (folder := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).mkdir(parents=True)
            return folder
    raise AssertionError("counting does not end")


def say_start(
    metrics: Metrics,
    kind: str,
    devices: Devices,
    state: State,
    data: TrainingData,
    changes: Changes,
    origins: dict[str, Any] | None,
) -> None:
    """The "run" line of the metrics, and one line for a person.

    changes, origins   what `trainer.checkpoints.changes` and `trainer.checkpoints.transfer` tell
    """
    names = [describe(device) for device in devices]
    val_records = data.validation_info.records if data.validation_info else None
    metrics.write(
        "run",
        step=state.step,
        epoch=state.epoch,
        recipe=state.recipe,
        net=kind,
        devices=names,
        seed=state.seed,
        threads=state.threads,
        precision=state.precision,
        versions={
            "alexnet": version("alexnet"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "decoder": data.info.decoder,
        },
        dataset={
            "train_records": data.info.records,
            "val_records": val_records,
            "classes": len(data.info.classes),
            "digest": state.dataset,
        },
        changed=changes,
        init=origins,
    )
    log.info(
        "recipe %s, width %g, %s on %s; %d records of %d classes; in %s",
        state.recipe["name"],
        state.recipe["width"],
        "two halves" if kind == "halves" else "one device",
        " and ".join(dict.fromkeys(names)),
        data.info.records,
        len(data.info.classes),
        metrics.path.parent,
    )


def last_line(outcome: Outcome) -> str:
    """What the command ends with: how far training came, the errors, where the run lies."""
    state, evaluation, folder = outcome.state, outcome.evaluation, outcome.checkpoint.parent
    epochs = state.recipe["epochs"]
    if outcome.idle:
        best = "" if state.best_error is None else f"; best top-1 error {percent(state.best_error)}"
        done = f"{state.epoch} epochs, {state.step} steps"
        return f"nothing to train: {done} were done already{best}; {folder} is left as it is"
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        return (
            f"stopped by {name} after step {state.step}; saved in {outcome.checkpoint}; --resume --run {folder} goes on"
        )
    if state.epoch < epochs:
        errors = f", validation {errors_of(evaluation)}" if evaluation else ""
        return f"stopped after step {state.step}, in epoch {state.epoch + 1} of {epochs}{errors}; run in {folder}"
    if evaluation is not None:
        return f"trained {epochs} epochs: validation {errors_of(evaluation)}; run in {folder}"
    return f"trained {epochs} epochs, without validation; run in {folder}"
