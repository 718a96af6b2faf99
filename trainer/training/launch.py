"""One run of the trainer, from its options to its outcome."""

import contextlib
import dataclasses
import logging
import platform
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from common.cli.progress import showing_progress
from common.client.client import LoaderClient
from trainer.checkpoints.changes import Changes
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State
from trainer.checkpoints.transfer import take_weights
from trainer.device.devices import Devices, describe, devices_of_halves, devices_of_rank, set_precision
from trainer.device.streams import Streams
from trainer.feeding.data import TrainingData, open_client
from trainer.network.build import build_net, full_memory_as_error, kind_of_net
from trainer.network.net import Net
from trainer.ranks.global_step import GlobalStep
from trainer.ranks.place import is_restarted
from trainer.ranks.share import Division, Share
from trainer.ranks.world import World
from trainer.recipes.recipe import Recipe
from trainer.training.agreement import on_all_ranks, on_rank_0, path_on_rank_0, refuse_differences
from trainer.training.board import Board, writer_type
from trainer.training.loop import Trainer
from trainer.training.metrics import Metrics
from trainer.training.outcome import Outcome
from trainer.training.profile import Profile, WatchedStreams
from trainer.training.rank_options import check_batch
from trainer.training.report import Plan, Report, ReportedByRank0
from trainer.training.resuming import resume_command
from trainer.training.run_folder import run_folder
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd
from trainer.training.start import Settings, Start, all_changes, is_done, settings_of, start_of, starting_state
from trainer.training.stopping import StopSignals
from trainer.training.together import Together
from trainer.training.train_options import TrainOptions

SOONER_S = 10.0  # a rank gives up a loader so long before the others give up that rank

log = logging.getLogger(__name__)


def run(options: TrainOptions) -> Outcome:
    """Train as `options` say, with the other ranks that the environment names. Raises any AlexNetError."""
    with full_memory_as_error(), World.from_environment(options.rank_timeout_s) as world:
        return _run(_after_restart(options, world), world)


def _after_restart(options: TrainOptions, world: World) -> TrainOptions:
    # only the launcher of a lost rank counts a restart
    if not world.all_gather(torch.tensor(float(is_restarted()))).any():
        return options
    return dataclasses.replace(options, resume_if_begun=not options.resume)


def _run(options: TrainOptions, world: World) -> Outcome:
    if options.tensorboard and world.rank == 0:
        writer_type()  # if it is missing, say so before anything is opened
    devices = _devices(options, world)
    start = start_of(options, world)
    recipe, found = start.derived.recipe, start.resumed
    before = found.checkpoint.state if found else None
    settings = settings_of(options, before, devices[0], world)
    check_batch(recipe.batch_size, settings.parts)
    refuse_differences(world, _facts(options, recipe, settings))
    if found and is_done(options, recipe, found.checkpoint.state):
        return Outcome(found.checkpoint.state, None, found.path, idle=True)
    division = Division(world.ranks, settings.parts, options.reduce)
    signals, share = StopSignals(), Share(recipe.batch_size, world.rank, division)
    with _client(options, world) as client:
        open_data = partial(
            TrainingData,
            client,
            recipe,
            settings.data_seed,
            before.epoch if before else 0,
            share=share,
            on_bad_record=settings.on_bad_record,
            digests=settings.digests,
            breakable=signals.breakable,
        )
        data = on_all_ranks(world, open_data)
        refuse_differences(world, {"dataset": data.info.digest.hex(), "decoder": data.info.decoder})
        together = Together(world, share, digests=settings.digests != "off")
        return _train(options, start, starting_state(start, settings, data), data, devices, signals, together)


def _devices(options: TrainOptions, world: World) -> Devices:
    if world.local_ranks > 1 and not options.cpu and options.gpus is None:
        return devices_of_rank(options.gpus_per_rank, world.local_rank, world.local_ranks)
    return devices_of_halves(options.gpus, options.cpu)


def _facts(options: TrainOptions, recipe: Recipe, settings: Settings) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "alexnet": version("alexnet"),
        "recipe": dataclasses.asdict(recipe),
        "net": kind_of_net(options.net, recipe),
        "steps": options.steps,
        "reduce": options.reduce,
        **dataclasses.asdict(settings),
    }


def _client(options: TrainOptions, world: World) -> LoaderClient:
    """A client that gives up before the other ranks give up this one."""
    patience_s = float("inf") if world.ranks == 1 else max(1.0, options.rank_timeout_s - SOONER_S)
    timeout_s = min(options.loader_timeout_s, patience_s)
    return open_client(options.loaders, options.loaders_file, timeout_s, options.keys, patience_s)


def _train(
    options: TrainOptions,
    start: Start,
    state: State,
    data: TrainingData,
    devices: Devices,
    signals: StopSignals,
    together: Together,
) -> Outcome:
    recipe, found, watched = state.recipe, start.resumed, WatchedStreams()
    streams = watched if options.profile else Streams()
    net, sgd = build(options, state, devices, streams, found.checkpoint if found else None)
    origins = take_weights(start.init, net, data.info.classes) if start.init else None
    folder = path_on_rank_0(together.world, lambda: run_folder(options.folder, recipe.name))
    plan = Plan(recipe.epochs, data.info.records, recipe.batch_size, options.steps)

    def reports(stack: contextlib.ExitStack) -> tuple[Report, Profile | None]:
        metrics = stack.enter_context(Metrics(folder))
        progress = stack.enter_context(showing_progress())
        board = stack.enter_context(Board(folder, state.step, state.epoch)) if options.tensorboard else None
        if found:
            found.take_over()
        metrics.rewind(state.step if found else -1, state.epoch)
        changes = all_changes(found.checkpoint.state, state) if found else {}
        say_start(metrics, kind_of_net(options.net, recipe), devices, state, data, changes, origins)
        metrics.sync()  # a full disk is better reported now than at the first checkpoint
        profile = stack.enter_context(Profile(options.profile, watched, folder)) if options.profile else None
        return Report(metrics, progress, plan, every_steps=options.log_steps, board=board), profile

    with contextlib.ExitStack() as stack, signals:
        report, profile = on_rank_0(together.world, lambda: reports(stack)) or (ReportedByRank0(), None)
        return Trainer(
            net=net,
            step=GlobalStep(net, together.world, together.share.division, streams),
            together=together,
            sgd=sgd,
            schedule=Schedule(recipe, state.schedule),
            data=data,
            state=state,
            run_folder=folder,
            plan=plan,
            checkpoint_minutes=options.checkpoint_minutes,
            keep=options.keep,
            report=report,
            profile=profile,
            resumed_from=found.path if found else None,
            resume=resume_command(options, folder),
        ).train()


def build(
    options: TrainOptions, state: State, devices: Devices, streams: Streams, resumed: Checkpoint | None
) -> tuple[Net, Sgd]:
    recipe, graphs = state.recipe, options.cuda_graphs
    net = build_net(
        options.net,
        recipe,
        seed=state.seed,
        devices=devices,
        dtype=set_precision(state.precision),
        streams=streams,
        exchange=options.exchange,
        graphs=graphs,
    )
    sgd = Sgd(
        net.parameters,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
        streams=streams,
        graphs=graphs,
    )
    if resumed is not None:
        net.scatter(resumed.weights)
        net.scatter(resumed.velocities, sgd.velocities)
    return net, sgd


def say_start(
    metrics: Metrics,
    kind: str,
    devices: Devices,
    state: State,
    data: TrainingData,
    changes: Changes,
    origins: dict[str, Any] | None,
) -> None:
    names = [describe(device) for device in devices]
    metrics.write(
        "run",
        step=state.step,
        epoch=state.epoch,
        recipe=dataclasses.asdict(state.recipe),
        net=kind,
        devices=names,
        seed=state.seed,
        data_seed=state.stream_seed,
        threads=state.threads,
        ranks=state.ranks,
        parts=state.parts,
        precision=state.precision,
        versions=_versions(data),
        dataset=_dataset(data),
        changed=changes,
        init=origins,
    )
    log.info(
        "recipe %s, width %g, %s on %s; %d records of %d classes; in %s",
        state.recipe.name,
        state.recipe.width,
        "two halves" if kind == "halves" else "one device",
        " and ".join(dict.fromkeys(names)),
        data.info.records,
        len(data.info.classes),
        metrics.path.parent,
    )
    log.info("dataset %s", data.info.digest.hex())


def _versions(data: TrainingData) -> dict[str, str]:
    return {
        "alexnet": version("alexnet"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "decoder": data.info.decoder,
    }


def _dataset(data: TrainingData) -> dict[str, Any]:
    return {
        "train_records": data.info.records,
        "val_records": data.validation_info.records if data.validation_info else None,
        "classes": len(data.info.classes),
        "digest": data.info.digest.hex(),
    }
