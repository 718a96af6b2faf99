"""Checkpoints: a run's whole state in one file, with the names and shapes of the one-device network.

`RUN/checkpoint-00001234.safetensors` after step 1234, and `RUN/best.safetensors`. Tensors are `weights/<name>`,
`velocities/<name>` and `mean_hwc`; the metadata holds `State` as JSON, and a digest of all. A file that does not match
it is renamed, never removed.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from common.errors import CheckpointError, SaveError, UsageError
from common.spec import STORED_SIZE
from trainer.checkpoints import files
from trainer.checkpoints.files import PARTIAL, StoredTensor, put_in_place
from trainer.checkpoints.state import State, from_json, to_json
from trainer.recipes.bounds import MOST_SHOWN, shown

FORMAT = "alexnet-checkpoint-2"
FORMAT_BLAKE2 = "alexnet-checkpoint-1"  # until November 2026: another digest, else the same
BEST = "best.safetensors"
DAMAGED = ".damaged"
_MEAN = "mean_hwc"
_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state with its tensors, on the CPU, by reference name.

    mean_hwc   float32 256 x 256 x 3, the training set's mean image; None in old checkpoints
    """

    state: State
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]
    mean_hwc: Tensor | None = None


def save(run_folder: Path, checkpoint: Checkpoint, keep: int | None = None) -> Path:
    """As `write`."""
    tensors = {name: StoredTensor.of(tensor) for name, tensor in tensors_of(checkpoint).items()}
    return write(run_folder, checkpoint.state, tensors, None, keep)


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All of its tensors by their names in the file."""
    mean = {} if checkpoint.mean_hwc is None else {_MEAN: checkpoint.mean_hwc}
    return _prefixed("weights", checkpoint.weights) | _prefixed("velocities", checkpoint.velocities) | mean


def checkpoint_of(state: State, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """The inverse of `tensors_of`."""
    weights, velocities = (_without_prefix(prefix, tensors) for prefix in ("weights", "velocities"))
    return Checkpoint(state, weights, velocities, tensors.get(_MEAN))


def write(
    run_folder: Path,
    state: State,
    tensors: Mapping[str, StoredTensor],
    mean_hwc: Tensor | None,
    keep: int | None = None,
    before_naming: Callable[[], None] = lambda: None,
) -> Path:
    """Write the checkpoint, then remove all but the newest `keep`; return its path.

    before_naming   as `files.put_in_place` takes it

    Raises SaveError, naming the last good one; the older ones stay.
    """
    path = run_folder / f"checkpoint-{state.step:08d}.safetensors"
    mean = {} if mean_hwc is None else {_MEAN: StoredTensor.of(mean_hwc)}
    metadata = {"format": FORMAT, "state": to_json(state)}
    try:
        _remove(run_folder.glob(f"*.safetensors{PARTIAL}"))  # of a run that was killed while it wrote
        files.write(path, {**tensors, **mean}, metadata, before_naming)
    except SaveError as error:
        raise SaveError(f"{error}; {_last_good(run_folder)}") from None
    if keep is not None:
        _remove(all_in(run_folder)[:-keep])
    return path


def save_best(path: Path) -> None:
    """Make `best.safetensors` a link to `path`, or a copy. Raises SaveError; the previous best then stays."""
    with put_in_place(path.with_name(BEST), path.stat().st_size) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            partial.write_bytes(path.read_bytes())


def all_in(run_folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, without the best."""
    found = ((_NAME.fullmatch(path.name), path) for path in run_folder.glob("checkpoint-*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match and path.is_file())]


def newest(run_folder: Path) -> Path:
    """The last checkpoint. Raises UsageError if there is none."""
    found = all_in(run_folder)
    if not found:
        raise UsageError(f"{run_folder} holds no checkpoint to resume from; without --resume a run starts anew")
    return found[-1]


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises CheckpointError, naming the file and the fault."""
    try:
        return _checked(*files.read(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is not overwritten."""
    names = (path.with_name(path.name + DAMAGED + (f"-{number}" if number > 1 else "")) for number in count(1))
    target = next(name for name in names if not name.exists())
    try:
        path.rename(target)
    except OSError as error:
        raise SaveError(f"{path} is damaged and cannot be renamed to {target.name}: {error.strerror}") from None
    return target


def _checked(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Checkpoint:
    digests = {FORMAT: files.digest_of, FORMAT_BLAKE2: _blake2}
    if (form := metadata.get("format", "")) not in digests:
        raise CheckpointError(f"it is no checkpoint of this program: its format is {shown(metadata.get('format'))}")
    if metadata.get("digest") != digests[form](metadata.get("state", ""), tensors):
        raise CheckpointError("it is damaged: its contents do not match their digest")
    state = from_json(metadata.get("state", ""))
    _check_tensors(tensors)
    return checkpoint_of(state, tensors)


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not name.isprintable() or len(name) > MOST_SHOWN:
            raise CheckpointError(f"it has a tensor called {shown(name)}")
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"its {name} is of {str(tensor.dtype).removeprefix('torch.')}; all are of float32")
    if _MEAN in tensors and tensors[_MEAN].shape != (STORED_SIZE, STORED_SIZE, 3):
        shape = "x".join(map(str, tensors[_MEAN].shape))
        raise CheckpointError(f"its mean image is {shape}; it is {STORED_SIZE}x{STORED_SIZE}x3")
    if (spoilt := not_finite(tensors)) is not None:
        raise CheckpointError(f"its {spoilt} is not finite: training diverged before it was saved")


def _last_good(run_folder: Path) -> str:
    found = all_in(run_folder)
    return f"the last good checkpoint is {found[-1]}" if found else "there is no earlier checkpoint"


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # one file too many does no harm
            path.unlink()


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _blake2(state: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(state.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(files.bytes_of(tensor).data)
    return digest.hexdigest()
