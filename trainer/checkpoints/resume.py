"""Resuming: find the newest valid checkpoint; refuse an incompatible configuration."""

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

_LOOKS = 100  # at a folder from which another program removes checkpoints


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A valid checkpoint, its path, and those passed over as invalid."""

    checkpoint: Checkpoint
    path: Path
    passed_over: tuple[Path, ...] = ()

    def take_over(self) -> None:
        """Restore the folder to what it was when the checkpoint was saved; the run must hold its lock.

        It will reach the steps of those passed over again; a kill may have come before its second name, best.
        """
        for path in self.passed_over:
            if path.name != checkpoint.BEST:  # the next best replaces it, and nothing counts it
                log.warning("%s is kept as %s", path, checkpoint.set_aside(path).name)
        if self.checkpoint.state.is_best and self.path.name != checkpoint.BEST:
            checkpoint.save_best(self.path)


def is_begun(run_folder: Path) -> bool:
    return any(_candidates(run_folder))


def check_not_begun(run_folder: Path) -> None:
    if is_begun(run_folder):
        raise UsageError(f"{run_folder} already holds a run; --resume continues it, another --run starts anew")


def newest_whole(run_folder: Path) -> Found:
    """The newest valid checkpoint; the best, an older one, is tried last.

    Raises UsageError if there is none, CheckpointError if none is valid.
    """
    found = first_whole(lambda: _candidates(run_folder))
    if found is None:
        raise UsageError(f"{run_folder} holds no checkpoint to resume from; without --resume a run starts anew")
    log.info("resuming from %s", found.path)
    return found


def load_named(path: Path) -> Found:
    """A checkpoint file; or of a run's folder the best one, else the newest valid one.

    Raises UsageError if there is none, CheckpointError if none is valid.
    """
    if not path.exists():
        raise UsageError(f"there is no checkpoint {path}")
    found = first_whole(lambda: _best_first(path) if path.is_dir() else [path])
    if found is None:
        raise UsageError(f"{path} holds no checkpoint")
    return found


def first_whole(in_order: Callable[[], Iterable[Path]]) -> Found | None:
    """The first valid one, after a warning about each before it; None if there are none.

    Files removed meanwhile are listed again. Raises CheckpointError if none is valid.
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
        raise CheckpointError("no checkpoint is valid: " + "; ".join(map(str, failed.values())))
    return None


def _best_first(run_folder: Path) -> Iterator[Path]:
    yield from run_folder.glob(checkpoint.BEST)
    yield from reversed(checkpoint.all_in(run_folder))


def _candidates(run_folder: Path) -> Iterator[Path]:
    yield from reversed(checkpoint.all_in(run_folder))
    if (best := run_folder / checkpoint.BEST).exists():
        yield best


def check_same_data(state: State, info: StreamInfo) -> None:
    """Raise CheckpointError unless the loader serves the run's dataset and decodes it alike."""
    if state.class_names != info.classes:
        raise CheckpointError(
            f"the run to resume has {len(state.class_names)} classes ({_some(state.class_names)}), the loader's dataset"
            f" {len(info.classes)} ({_some(info.classes)}); serve the run's own dataset, or start a new run"
        )
    if state.dataset != info.digest.hex():
        raise CheckpointError(
            f"the run to resume was trained on dataset {state.dataset}, the loader serves {info.digest.hex()};"
            " serve that one, or start a new run"
        )
    if not may_agree(state.decoder, info.decoder):
        raise CheckpointError(
            f"the run to resume read images as {state.decoder} decodes them, the loader has {info.decoder}, which"
            " makes other pixels; install that one, or start a new run"
        )


def check_same_stream(state: State, name: str) -> None:
    """Raise CheckpointError unless the next batch is of the stream `name`, which has the run's own --on-bad-record."""
    if state.stream not in ("", name):
        raise CheckpointError(
            f"the run to resume was reading stream {state.stream}, and would continue with {name}, whose pixels"
            " differ; resume with the version of the program that began it, or start a new run"
        )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
