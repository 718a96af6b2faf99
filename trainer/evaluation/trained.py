"""Trained networks from their checkpoints."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.errors import CheckpointError
from common.spec import StreamInfo
from trainer.checkpoints.resume import load_named
from trainer.checkpoints.state import State
from trainer.device.devices import Devices
from trainer.device.streams import Streams
from trainer.evaluation.ensemble import Member
from trainer.feeding.pixel_transform import pixel_transforms
from trainer.network.build import build_net

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    path: Path
    state: State
    weights: dict[str, Tensor]
    mean_hwc: Tensor | None


@dataclass(frozen=True, slots=True)
class Placing:
    asked: str | None
    devices: Devices
    dtype: torch.dtype
    streams: Streams


def load_trained(path: Path) -> Trained:
    """A checkpoint as `load_named` finds it, with its errors."""
    found = load_named(path)
    return Trained(found.path, found.checkpoint.state, found.checkpoint.weights, found.checkpoint.mean_hwc)


def check_same_classes(classes_of: Sequence[tuple[Path, tuple[str, ...]]]) -> None:
    """Raise CheckpointError if networks, each by its path, have different classes."""
    path, classes = classes_of[0]
    for other, theirs in classes_of[1:]:
        if difference := _difference(classes, theirs):
            raise CheckpointError(f"{path} and {other} know other classes: {difference}")


def check_classes_served(trained: Trained, info: StreamInfo) -> None:
    """Raise CheckpointError if the loader serves other classes than the network knows."""
    if difference := _difference(trained.state.class_names, info.classes):
        raise CheckpointError(
            f"{trained.path} was trained on other classes than the loader serves: {difference}; serve its own data"
            " set, or one with the same classes (--features takes any)"
        )


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours):,} and {len(theirs):,} of them"
    pairs = enumerate(zip(ours, theirs, strict=True))
    return next((f"class {label} is {a!r} and {b!r}" for label, (a, b) in pairs if a != b), "")


def member_of(trained: Trained, info: StreamInfo | None, placing: Placing) -> Member:
    """The network on its devices; its pixels lose the mean image that it was trained with.

    info   of the served dataset; None if there is none: a checkpoint without a mean image is then a CheckpointError
    """
    recipe = trained.state.recipe
    net = build_net(
        placing.asked,
        recipe,
        seed=trained.state.seed,
        devices=placing.devices,
        dtype=placing.dtype,
        streams=placing.streams,
        training=False,
    )
    try:
        net.scatter(trained.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{trained.path}: {error}") from None
    transforms = pixel_transforms(net, _mean(trained, info), recipe.input_shape, recipe.test_scale)
    return Member(str(trained.path), net, recipe, transforms)


def _mean(trained: Trained, info: StreamInfo | None) -> npt.NDArray[np.float32]:
    if trained.mean_hwc is None:
        if info is None:
            raise CheckpointError(f"{trained.path} holds no mean image: an older version of the trainer wrote it")
        log.info("%s holds no mean image; that of the served dataset is taken", trained.path)
        return info.mean_hwc
    mean_hwc: npt.NDArray[np.float32] = trained.mean_hwc.numpy()
    if info is not None and not np.array_equal(mean_hwc, info.mean_hwc):
        log.info("%s brings its own mean image, which is not that of the served dataset", trained.path)
    return mean_hwc
