"""The training images whose hidden layer is nearest to that of other images, by Euclidean distance."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.cli.progress import ProgressBar
from common.client.batch import Batch
from trainer.device.streams import Streams
from trainer.evaluation.ensemble import Member, views
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import Pinned
from trainer.recipes.recipe import Recipe

Numbers = npt.NDArray[np.int64]


def last_hidden(recipe: Recipe) -> str | None:
    """The last hidden layer, fc7 in the paper; None if there is none."""
    return recipe.fc[-2].name if len(recipe.fc) > 1 else None


def features(member: Member, layer: str, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its centre views' features on the host, n x units."""
    for fed in Feed(member.net, streams=Streams(), pinned=Pinned()).batches(batches):
        yield fed.batch, _features(member, layer, fed)


def _features(member: Member, layer: str, fed: DeviceBatch) -> Tensor:
    parts = member.net.features(member.pixels(fed.pixels, views(member.recipe.crop)[0]), layer)
    return torch.cat([part.float().cpu() for part in parts], dim=1)


class Nearest:
    """The `count` nearest records of each of n images, nearest first.

    records, labels   int64 n x count; -1 if there are fewer
    """

    def __init__(self, of: Tensor, count: int) -> None:
        self._of, self._count = of, count
        self.records, self.labels = (np.full((len(of), count), -1, np.int64) for _ in range(2))
        self._distances = np.full((len(of), count), np.inf)

    def take_in(self, batch: Batch, among: Tensor) -> None:
        """`among`, m x units, the features of a batch; a corrupt record is near to nothing."""
        distances = torch.cdist(self._of, among).double().nan_to_num(nan=torch.inf).numpy()
        distances[:, [place.position - batch.first for place in batch.replaced]] = np.inf
        every = np.concatenate([self._distances, distances], axis=1)
        order = every.argsort(axis=1, kind="stable")[:, : self._count]
        self._distances = np.take_along_axis(every, order, axis=1)
        self.records = _merged(self.records, batch.records, order)
        self.labels = _merged(self.labels, batch.labels, order)
        self.records[np.isinf(self._distances)] = -1


def _merged(old: Numbers, new: Numbers, order: Numbers) -> Numbers:
    every = np.concatenate([old, np.broadcast_to(new, (len(old), len(new)))], axis=1)
    return np.take_along_axis(every, order, axis=1)


def search(member: Member, layer: str, of: Tensor, among: Iterator[Batch], images: int, count: int) -> Nearest:
    """Search `images` of a stream, with progress."""
    nearest, seen = Nearest(of, count), 0
    with ProgressBar(f"nearest in {layer}", images) as progress:
        for batch, found in features(member, layer, among):
            nearest.take_in(batch, found)
            seen += len(batch)
            progress.count(seen)
    return nearest


def stacked(member: Member, layer: str, batches: Sequence[Batch]) -> Tensor:
    return torch.cat([found for _, found in features(member, layer, iter(batches))])
