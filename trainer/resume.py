"""Going on with a run: its newest whole checkpoint, and the refusal to go on as something else than what it was."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import CheckpointError, UsageError
from common.spec import StreamInfo
from trainer import checkpoint, recipe_file
from trainer.checkpoint import Checkpoint, State
from trainer.options import Options
from trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Resumed:
    """The checkpoint to go on from, where it lies, and the newer ones that were passed over as they did not verify."""

    checkpoint: Checkpoint
    path: Path
    passed_over: tuple[Path, ...] = ()

    def take_over(self) -> None:
        """Make the folder what it was when the checkpoint was saved. The folder must be locked: it is our run now.

        Those passed over get another name: the run will come by their steps again, and must neither write over them
        nor count them among the newest. A kill may have come between a best checkpoint and its second name.
        """
        for path in self.passed_over:
            if path.name != checkpoint.BEST:  # which the next best replaces, and which nothing counts
                log.warning("%s is kept as %s", path, checkpoint.set_aside(path).name)
        if self.checkpoint.state.best_step == self.checkpoint.state.step and self.path.name != checkpoint.BEST:
            checkpoint.save_best(self.path)


def load_resumed(options: Options) -> Resumed | None:
    """What --resume goes on from, in --run; without it, a folder that has checkpoints is not written over."""
    if options.resume:
        if options.folder is None:
            raise UsageError("--resume needs --run, the folder of the run to resume")
        return newest_whole(options.folder)
    if options.folder is not None and any(_candidates(options.folder)):
        raise UsageError(f"{options.folder} already holds a run; --resume goes on with it, another --run starts anew")
    return None


def newest_whole(run_folder: Path) -> Resumed:
    """The newest checkpoint that verifies, after a warning about each newer one that does not.

    The best one is the last to be tried: it is a whole checkpoint of the same run, only older than those kept, and to
    do its steps again gives the same bits. Raises UsageError where there is none, CheckpointError where none verifies.
    """
    failed: dict[Path, CheckpointError] = {}
    for path in _candidates(run_folder):
        try:
            found = checkpoint.load(path)
        except CheckpointError as error:
            failed[path] = error
            continue
        for reason in failed.values():
            log.warning("%s; passed over", reason)
        log.info("going on from %s", path)
        return Resumed(found, path, tuple(failed))
    if not failed:
        raise UsageError(f"{run_folder} holds no checkpoint to resume from; without --resume a run starts anew")
    raise CheckpointError("no checkpoint is left to resume from: " + "; ".join(map(str, failed.values())))


def _candidates(run_folder: Path) -> Iterator[Path]:
    yield from reversed(checkpoint.all_in(run_folder))
    if (best := run_folder / checkpoint.BEST).exists():
        yield best


def resumed_recipe(options: Options, state: State) -> Recipe:
    """The recipe to go on with: the stored one, over another number of epochs where that is asked.

    Raises UsageError where an option asks for anything else than the run is.
    """
    stored = stored_recipe(state)
    asked_and_stored: dict[str, tuple[Any, Any]] = {
        "--recipe": (options.recipe, stored.name),
        "--width": (options.width, stored.width),
        "--batch-size": (options.batch_size, stored.batch_size),
        "--lr": (options.rate, stored.phase[0].rate),
        "--seed": (options.seed, state.seed),
    }
    for option, (asked, is_so) in asked_and_stored.items():
        if asked is not None and asked != is_so:
            raise UsageError(f"{option} {asked}: the run to resume has {is_so}; leave {option} out to go on with that")
    if options.epochs is None or options.epochs == stored.epochs:
        return stored
    log.info("%d epochs instead of %d; the schedule is stretched to them", options.epochs, stored.epochs)
    return stored.stretched(options.epochs)


def check_same_data(state: State, info: StreamInfo) -> None:
    """Raises CheckpointError where the loader's data set is not what the run was trained on."""
    if state.class_names != info.classes:
        raise CheckpointError(
            f"the run to resume has {len(state.class_names)} classes ({_some(state.class_names)}), the loader's data"
            f" set {len(info.classes)} ({_some(info.classes)}); serve the run's own data set, or start a new run"
        )
    if state.dataset != info.digest.hex():
        raise CheckpointError(
            f"the run to resume was trained on data set {state.dataset}, the loader serves {info.digest.hex()};"
            " serve that one, or start a new run"
        )
    if state.decoder not in ("", info.decoder):
        raise CheckpointError(
            f"the run to resume read pictures as {state.decoder} decodes them, the loader has {info.decoder}, which"
            " makes other pixels; install that one, or start a new run"
        )


def check_same_stream(state: State, name: str) -> None:
    """Raises CheckpointError where the next batch would not be of the stream that the run was reading.

    `name` is with the run's own --on-bad-record: to answer a bad record with another one is how such a run goes on.
    """
    if state.stream not in ("", name):
        raise CheckpointError(
            f"the run to resume was reading stream {state.stream}, and would go on with {name}: they differ in what"
            " decides pixels; go on with the options and the program that it began with, or start a new run"
        )


def stored_recipe(state: State) -> Recipe:
    """The recipe that a checkpoint holds. Raises CheckpointError."""
    try:
        return recipe_file.from_dict(state.recipe)
    except UsageError as error:
        raise CheckpointError(f"the checkpoint's recipe is of another version of this program: {error}") from None


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
