"""One run of the trainer, from its options to its outcome: all is opened here, handed to the loop, and closed."""

import contextlib
import dataclasses
import itertools
import logging
import os
import platform
import signal
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from common.client import LoaderClient
from common.errors import AlexNetError, LoaderRefused, UsageError
from common.progress import ProgressLine
from common.spec import StreamInfo
from trainer.checkpoint import Checkpoint, State
from trainer.data import TrainingData
from trainer.devices import describe, devices_of_halves
from trainer.loop import Limits, Outcome, Trainer
from trainer.metrics import Metrics
from trainer.net import Net
from trainer.one_device import OneDevice
from trainer.options import Options, recipe_of
from trainer.peers import ways_between
from trainer.precision import default_precision, set_up
from trainer.profile import Profile, WatchedStreams
from trainer.recipe import Recipe
from trainer.report import Plan, Report, errors_of, percent
from trainer.resume import check_same_data, check_same_stream, load_resumed, resumed_recipe
from trainer.schedule import Schedule
from trainer.sgd import Sgd
from trainer.signals import StopSignals
from trainer.streams import Streams
from trainer.two_halves import TwoHalves

log = logging.getLogger(__name__)

Devices = tuple[torch.device, torch.device]


def run(options: Options) -> Outcome:
    """Train as `options` say. Raises any AlexNetError; the message says what to do."""
    try:
        return _run(options)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise AlexNetError(f"the memory of the device is full ({reason}); try a smaller --batch-size") from None


def _run(options: Options) -> Outcome:
    devices = devices_of_halves(options.gpus, options.cpu)
    resumed = load_resumed(options)
    seed = resumed.state.seed if resumed else options.seed or 0
    recipe = resumed_recipe(options, resumed.state) if resumed else recipe_of(options)
    threads = set_up_torch(options.threads, resumed)
    precision = options.precision or (resumed.state.precision if resumed else default_precision(devices[0]))
    on_bad_record = options.on_bad_record or (resumed.state.on_bad_record if resumed else "replace")
    digests = options.digests or (resumed.state.digests if resumed else "off")
    with open_client(options) as client:
        epoch = resumed.state.epoch if resumed else 0
        data = TrainingData(client, recipe, seed, epoch, on_bad_record=on_bad_record, digests=digests)
        recipe = dataclasses.replace(recipe, classes=len(data.info.classes))
        state = resumed.state if resumed else new_state(seed, data.info)
        check_same_data(state, data.info)
        if resumed and state.recipe["epochs"] == recipe.epochs:  # else its noise may go off at another epoch
            check_same_stream(state, data.stream_name(state.epoch, state.on_bad_record))
        state = dataclasses.replace(
            state,
            recipe=dataclasses.asdict(recipe),
            threads=threads,
            precision=precision,
            on_bad_record=on_bad_record,
            digests=digests,
        )
        watched = WatchedStreams()
        streams = watched if options.profile else Streams()
        net, sgd, schedule = build(options, recipe, seed, devices, set_up(precision), streams, resumed)
        folder = run_folder(options.folder, recipe.name)
        with Metrics(folder) as metrics, showing_progress() as progress, StopSignals() as signals:
            metrics.rewind(state.step if resumed else -1, state.epoch)
            say_start(metrics, net_of(options, recipe), devices, state, data)
            plan = Plan(recipe.epochs, data.info.records, recipe.batch_size, options.steps)
            report = Report(metrics, progress, plan, every_steps=options.log_steps)
            limits = Limits(recipe.epochs, options.steps, options.checkpoint_minutes)
            profile = Profile(options.profile, watched, folder) if options.profile else None
            return Trainer(net, sgd, schedule, data, state, folder, limits, report, signals, profile).train()


def open_client(options: Options) -> LoaderClient:
    try:
        return LoaderClient(
            options.endpoints,
            loaders_file=options.loaders_file,
            timeout_s=options.loader_timeout_s,
            keys=options.keys,
        )
    except LoaderRefused as refusal:  # no service was asked yet: the endpoint itself is wrong
        raise UsageError(str(refusal)) from None


def set_up_torch(threads: int | None, resumed: Checkpoint | None) -> int:
    """Make the CPU compute the same bits each time; gives the number of threads, which is part of that."""
    stored = resumed.state.threads if resumed else None
    torch.set_num_threads(threads or stored or torch.get_num_threads())
    if stored not in (None, torch.get_num_threads()):
        log.info("%d threads instead of %s: sums may round differently", torch.get_num_threads(), stored)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may give other bits each time
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms loads the compiler too: a second
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.get_num_threads()


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
    net: Net
    graphs = options.cuda_graphs
    if net_of(options, recipe) == "halves":
        ways = ways_between(devices, options.exchange)
        net = TwoHalves(recipe, seed=seed, devices=devices, dtype=dtype, streams=streams, ways=ways, graphs=graphs)
    elif options.exchange != "auto":
        raise UsageError(f"--exchange {options.exchange}: --net one-device exchanges nothing; leave one of them out")
    else:
        net = OneDevice(recipe, seed=seed, device=devices[0], dtype=dtype, streams=streams, graphs=graphs)
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


def net_of(options: Options, recipe: Recipe) -> str:
    """ "halves" or "one-device", as asked or as the recipe allows. Raises UsageError where these do not agree."""
    if recipe.columns == 1 and options.net == "halves":
        raise UsageError(f"--net halves: recipe {recipe.name} has one column; --net one-device trains it")
    if recipe.exchange != "same" and options.net == "one-device":
        raise UsageError(f"--net one-device: nothing crosses there in {recipe.exchange}, as recipe {recipe.name} wants")
    return options.net or ("halves" if recipe.columns == 2 else "one-device")


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


@contextlib.contextmanager
def showing_progress() -> Iterator[ProgressLine]:
    """A progress line that makes way for log lines, and is gone in the end."""
    handlers = list(logging.getLogger().handlers)
    with ProgressLine() as progress:

        def make_way(_record: logging.LogRecord) -> bool:
            progress.clear()
            return True

        for handler in handlers:
            handler.addFilter(make_way)
        try:
            yield progress
        finally:
            for handler in handlers:
                handler.removeFilter(make_way)


def say_start(metrics: Metrics, kind: str, devices: Devices, state: State, data: TrainingData) -> None:
    """The "run" line of the metrics, and one line for a person."""
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
    if state.best_error is not None:
        return f"all {epochs} epochs were done already: best top-1 error {percent(state.best_error)}; run in {folder}"
    return f"trained {epochs} epochs, without validation; run in {folder}"
