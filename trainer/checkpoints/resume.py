"""Going on with a run: its newest whole checkpoint, and the refusal to go on as something else than what it was."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.decoder import may_agree
from common.errors import CheckpointError, UsageError
from common.spec import StreamInfo
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State

log = logging.getLogger(__name__)

_LOOKS = 100  # into a folder from which another program removes checkpoints


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A checkpoint that verifies, where it lies, and those that were passed over as they did not."""

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
        if self.checkpoint.state.is_best and self.path.name != checkpoint.BEST:
            checkpoint.save_best(self.path)


def check_not_begun(run_folder: Path) -> None:
    """Raises UsageError where the folder has checkpoints: they are not written over."""
    if any(_candidates(run_folder)):
        raise UsageError(f"{run_folder} already holds a run; --resume goes on with it, another --run starts anew")


def newest_whole(run_folder: Path) -> Found:
    """The newest checkpoint that verifies, after a warning about each newer one that does not.

    The best one is the last to be tried: it is a whole checkpoint of the same run, only older than those kept, and to
    do its steps again gives the same bits. Raises UsageError where there is none, CheckpointError where none verifies.
    """
    found = first_whole(lambda: _candidates(run_folder))
    if found is None:
        raise UsageError(f"{run_folder} holds no checkpoint to resume from; without --resume a run starts anew")
    log.info("going on from %s", found.path)
    return found


def load_named(path: Path) -> Found:
    """A checkpoint file; or, of a run's folder, the best one, else the newest, that verifies.

    Raises UsageError where there is none, CheckpointError where none verifies.
    """
    if not path.exists():
        raise UsageError(f"there is no checkpoint {path}")
    found = first_whole(lambda: _best_first(path) if path.is_dir() else [path])
    if found is None:
        raise UsageError(f"{path} holds no checkpoint")
    return found


def first_whole(in_order: Callable[[], Iterable[Path]]) -> Found | None:
    """The first that verifies, after a warning about each before it; None without any, CheckpointError without one.

    A training may remove what is about to be read, as it saves newer ones: those are then looked for.
    """
    failed: dict[Path, CheckpointError] = {}
    for _ in range(_LOOKS):
        failed, removed = {}, False
        for path in in_order():
            try:
                found = checkpoint.load(path)
            except CheckpointError as error:
                if path.exists():
                    failed[path] = error
                else:
                    removed = True
                continue
            for reason in failed.values():
                log.warning("%s; passed over", reason)
            return Found(found, path, tuple(failed))
        if not removed:
            break
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise CheckpointError("no checkpoint is left to go on from: " + "; ".join(map(str, failed.values())))
    return None


def _best_first(run_folder: Path) -> Iterator[Path]:
    yield from run_folder.glob(checkpoint.BEST)
    yield from reversed(checkpoint.all_in(run_folder))


def _candidates(run_folder: Path) -> Iterator[Path]:
    yield from reversed(checkpoint.all_in(run_folder))
    if (best := run_folder / checkpoint.BEST).exists():
        yield best


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
    if not may_agree(state.decoder, info.decoder):
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
            " decides pixels; go on with the program that it began with, or start a new run"
        )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
