"""Checkpoints: a run's whole state in one file, named and shaped as the one-device network's.

`RUN/checkpoint-00001234.safetensors` after step 1234, and `RUN/best.safetensors`, the one with the lowest validation
error. Tensors are `weights/<name>` and `velocities/<name>`, as `Net.gather` gives them, and `mean_hwc`, the mean image
that the weights were trained with; the metadata holds `State` as JSON. No pickle. A file appears whole or not at all
(written beside, synced, renamed), and carries a digest of its contents, so a damaged one is noticed when it is read.
"""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import CheckpointError, UsageError
from common.received import DigestUse
from common.spec import OnBadRecord

FORMAT = "alexnet-checkpoint-1"
KEPT = 3
BEST = "best.safetensors"
_MEAN = "mean_hwc"
_PREFIX, _SUFFIX, _PARTIAL = "checkpoint-", ".safetensors", ".partial"


@dataclass(frozen=True, slots=True)
class State:
    """All of a run that is not a tensor.

    epoch, first    where the next batch begins; `first` equal to the records means that validation is what is next
    step            steps done
    recipe          of the run, as an object; with it classes, width, batch size and schedule
    schedule        what the schedule carries from epoch to epoch
    tally           the running sums of the unfinished epoch
    best_error      lowest top-1 validation error so far, a share; None before the first validation
    dataset, class_names    digest of the training set in hex, and its classes
    threads         of torch on the CPU: another number may round otherwise
    precision       fp32, tf32 or bf16
    stream, decoder the name of the stream that the next batch is of (`StreamSpec.name`), and the JPEG decoder's
    on_bad_record, digests   as the run was asked to, see TrainingData
    epoch_digest    rolling digest of the unfinished epoch in hex, see `common.digest`; None before its first picture,
                    or where not every picture of it had one
    """

    epoch: int
    first: int
    step: int
    seed: int
    recipe: dict[str, Any]
    dataset: str
    class_names: tuple[str, ...]
    threads: int
    precision: str = "fp32"
    stream: str = ""
    decoder: str = ""
    best_error: float | None = None
    schedule: dict[str, Any] = field(default_factory=dict)
    tally: dict[str, float] = field(default_factory=dict)
    on_bad_record: OnBadRecord = "replace"
    digests: DigestUse = "off"
    epoch_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state with its tensors, on the CPU, by reference name.

    mean_hwc   float32 256 x 256 x 3, the mean image of the training set; None in checkpoints of before it was kept
    """

    state: State
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]
    mean_hwc: Tensor | None = None


def save(run_folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of `state.step`, then remove all but the newest three; gives its path.

    Raises CheckpointError if the disk will not take it; what was there before stays.
    """
    path = run_folder / f"{_PREFIX}{checkpoint.state.step:08d}{_SUFFIX}"
    tensors = _prefixed("weights", checkpoint.weights) | _prefixed("velocities", checkpoint.velocities)
    if checkpoint.mean_hwc is not None:
        tensors[_MEAN] = checkpoint.mean_hwc.contiguous()
    state = json.dumps(dataclasses.asdict(checkpoint.state))
    metadata = {"format": FORMAT, "state": state, "digest": _digest(state, tensors)}
    partial = path.with_name(path.name + _PARTIAL)
    try:
        save_file(tensors, partial, metadata)
        partial.chmod(0o666 & ~_umask())  # the library makes files that only their owner can read
        _put_in_place(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}") from None
    _prune(run_folder)
    return path


def save_best(path: Path) -> None:
    """Make `best.safetensors` the checkpoint at `path`: a second name where the file system has them, else a copy."""
    best = path.with_name(BEST)
    partial = best.with_name(BEST + _PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(path, partial)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            partial.write_bytes(path.read_bytes())
        _put_in_place(partial, best)
    except OSError as error:
        raise CheckpointError(f"{best} cannot be written: {error}") from None


def all_in(run_folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first; `best` is not among them."""
    return sorted(run_folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def newest(run_folder: Path) -> Path:
    """The checkpoint with the most steps. Raises UsageError if there is none."""
    found = all_in(run_folder)
    if not found:
        raise UsageError(f"{run_folder} holds no checkpoint to resume from; without --resume a run starts anew")
    return found[-1]


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises CheckpointError, which names the file and what is wrong with it."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}{_go_back(path)}") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this program: its format is {metadata.get('format')!r}")
    if metadata.get("digest") != _digest(metadata.get("state", ""), tensors):
        raise CheckpointError(f"{path} is damaged: its contents do not match their digest{_go_back(path)}")
    try:
        state = State(**json.loads(metadata["state"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable state: {error}{_go_back(path)}") from None
    state = dataclasses.replace(state, class_names=tuple(state.class_names))
    weights, velocities = (_without_prefix(prefix, tensors) for prefix in ("weights", "velocities"))
    return Checkpoint(state, weights, velocities, tensors.get(_MEAN))


def _put_in_place(partial: Path, path: Path) -> None:
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)  # the folder, so that the new name survives a power cut too


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(run_folder: Path) -> None:
    for path in all_in(run_folder)[:-KEPT]:
        path.unlink(missing_ok=True)
    for path in run_folder.glob(f"*{_SUFFIX}{_PARTIAL}"):  # of a run that was killed while it wrote
        path.unlink(missing_ok=True)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.contiguous() for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _digest(state: str, tensors: Mapping[str, Tensor]) -> str:
    """Over the state's text and the tensors' names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.blake2b(state.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _go_back(path: Path) -> str:
    return f"; remove it, and --resume takes the one before it ({len(all_in(path.parent)) - 1} left)"
