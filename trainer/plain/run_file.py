"""Trained networks on disk: checkpoints of alexnet-trainer, and files of `alexnet-export --to safetensors`."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .architecture import Architecture

log = logging.getLogger(__name__)

BEST = "best.safetensors"
EXPORTED = "model.safetensors"  # in a folder of `alexnet-export --hub`
MEAN = "mean"

_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
_WEIGHTS = "weights/"
_DIGESTED = {"alexnet-checkpoint-1", "alexnet-checkpoint-2"}
_LOOKS = 100  # at a folder from which a trainer removes checkpoints


@dataclass(frozen=True, slots=True, eq=False)
class StoredNet:
    """A trained network, `tensors` by the names of `AlexNet2012.state_dict`."""

    path: Path
    architecture: Architecture
    class_names: tuple[str, ...]
    tensors: dict[str, Tensor]


def read_run(run: str | os.PathLike[str]) -> StoredNet:
    """The valid network that comes first in `files_of`, after a warning about each before it.

    Raises FileNotFoundError if there is none, ValueError if none is valid.
    """
    path, refusals = Path(run), dict[Path, ValueError]()
    for _ in range(_LOOKS):
        refusals, removed = {}, False
        for file in files_of(path):
            try:
                stored = read_file(file)
            except FileNotFoundError:
                removed = True
                continue
            except ValueError as error:
                refusals[file] = error
                continue
            for reason in refusals.values():
                log.warning("%s; passed over", reason)
            return stored
        if not removed:
            break
    if refusals:
        raise ValueError("; ".join(map(str, refusals.values())))
    raise FileNotFoundError(f"{path} holds no checkpoint" if path.is_dir() else f"there is no checkpoint {path}")


def files_of(path: Path) -> list[Path]:
    """A file itself; of a folder the best checkpoint, the others, newest first, and an exported network."""
    if not path.is_dir():
        return [path]
    numbered = ((_NAME.fullmatch(file.name), file) for file in path.glob("checkpoint-*"))
    newest = sorted(((int(match[1]), file) for match, file in numbered if match and file.is_file()), reverse=True)
    return [*path.glob(BEST), *(file for _, file in newest), *path.glob(EXPORTED)]


def read_file(path: Path) -> StoredNet:
    """Raises ValueError, naming file and fault, and OSError."""
    metadata, tensors = _contents(path)
    try:
        if metadata.get("format") in _DIGESTED:
            return StoredNet(path, *_of_checkpoint(metadata, tensors))
        if "recipe" in metadata:
            return StoredNet(path, *_of_export(metadata, tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    raise ValueError(f"{path} is neither a checkpoint nor an export of this program")


def to_bytes(stored: StoredNet, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file that `read_file` reads, with recipe and class names in its metadata; the same each time."""
    from safetensors.torch import save

    data = bytes(save(stored.tensors, {"format": "pt", **described(stored), **metadata}))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()  # the library leaves the order to chance
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def described(stored: StoredNet) -> dict[str, str]:
    """Metadata of an export: recipe and class names as JSON."""
    return {"recipe": json.dumps(stored.architecture.to_dict()), "class_names": json.dumps(stored.class_names)}


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open  # only who reads a run needs it

    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged: {error}") from None


def _of_checkpoint(
    metadata: Mapping[str, str], tensors: dict[str, Tensor]
) -> tuple[Architecture, tuple[str, ...], dict[str, Tensor]]:
    if _digest(metadata["format"], metadata["state"], tensors) not in (None, metadata.get("digest")):
        raise ValueError("it is damaged: its contents do not match their digest")
    if "mean_hwc" not in tensors:
        raise ValueError("it holds no mean image: an older version of alexnet-trainer wrote it")
    state: dict[str, Any] = json.loads(metadata["state"])
    weights = {name.removeprefix(_WEIGHTS): each for name, each in tensors.items() if name.startswith(_WEIGHTS)}
    weights[MEAN] = tensors["mean_hwc"].permute(2, 0, 1).contiguous()
    return _checked(state["recipe"], state["class_names"], weights)


def _of_export(
    metadata: Mapping[str, str], tensors: dict[str, Tensor]
) -> tuple[Architecture, tuple[str, ...], dict[str, Tensor]]:
    return _checked(json.loads(metadata["recipe"]), json.loads(metadata["class_names"]), tensors)


def _checked(
    recipe: Mapping[str, Any], class_names: list[str], tensors: dict[str, Tensor]
) -> tuple[Architecture, tuple[str, ...], dict[str, Tensor]]:
    net = Architecture.of(recipe)
    if len(class_names) != net.classes:
        raise ValueError(f"it names {len(class_names)} classes, its recipe {net.classes}")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"its {name} is not finite: training diverged before it was saved")
    return net, tuple(class_names), tensors


def _digest(form: str, state: str, tensors: Mapping[str, Tensor]) -> str | None:
    """In hex; None without xxhash, which the wheel brings and a copy of this folder may lack."""
    if form == "alexnet-checkpoint-1":
        hasher: Any = hashlib.blake2b(digest_size=16)
    else:
        try:
            import xxhash
        except ImportError:
            return None
        hasher = xxhash.xxh3_128()
    hasher.update(state.encode())
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name].contiguous()
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return str(hasher.hexdigest())
