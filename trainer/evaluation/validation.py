"""Validation between epochs, and its measures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from common.client.batch import Batch
from trainer.feeding.feed import DeviceBatch
from trainer.network.net import Net
from trainer.ranks.world import World

TOP = 5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of images answered wrong, and the mean -log p of the labels.

    top5_error   None with five classes or fewer
    """

    top1_error: float
    top5_error: float | None
    loss: float
    images: int


def evaluate(
    net: Net,
    batches: Iterable[DeviceBatch],
    cuts: Iterable[Sequence[slice]] | None = None,
    world: World | None = None,
) -> Evaluation:
    """Errors over `batches`, without a record in a corrupt one's place: it has its own.

    cuts    of each batch its parts, as many each time, which are answered and summed apart; None: all in one
    world   whose ranks have other images

    The host waits for the device only at the end.
    """
    sums: dict[int, Tensor] = {}  # by part
    images = classes = 0
    for fed, parts in zip(batches, cuts or repeat([slice(None)]), strict=False):
        for number, part in enumerate(parts):
            probabilities, labels = _answers(net, fed, part)
            sums[number] = sums.get(number, 0.0) + _errors_and_loss(probabilities, labels)
            images, classes = images + len(labels), max(classes, probabilities.shape[1])
    return _all_ranks(world or World.alone(), images, classes, sums)


def _answers(net: Net, fed: DeviceBatch, part: slice) -> tuple[Tensor, Tensor]:
    """Probabilities, n x classes, and labels, n, of a part, without records in others' places."""
    labels = fed.labels[part]
    if len(labels) == 0:
        return torch.zeros(0, 0, device=labels.device), labels
    probabilities = net.predict(fed.inputs(net, part))
    if not fed.batch.replaced:
        return probabilities, labels
    places = range(len(fed))[part]
    own = [place - places.start for place in places_with_own(fed.batch) if place in places]
    index = torch.tensor(own, dtype=torch.int64, device=labels.device)
    return probabilities[index], labels[index]


def _all_ranks(world: World, images: int, classes: int, sums: Mapping[int, Tensor]) -> Evaluation:
    counts = torch.tensor([images, classes], dtype=torch.float64)
    rows = world.all_gather(torch.cat([counts, *(each.cpu() for each in sums.values())]))
    images, classes = int(rows[:, 0].sum()), int(rows[:, 1].max())
    if images == 0:
        raise ValueError("there was no image to evaluate on")
    top1_errors, top5_errors, loss = (math.fsum(column) for column in rows[:, 2:].reshape(-1, 3).T.tolist())
    top5_error = top5_errors / images if classes > TOP else None
    return Evaluation(top1_errors / images, top5_error, loss / images, images)


def places_with_own(batch: Batch) -> list[int]:
    """The places of a batch that hold their own record's image."""
    taken = {place.position - batch.first for place in batch.replaced}
    return [place for place in range(len(batch)) if place not in taken]


def ranks(probabilities: Tensor, labels: Tensor) -> Tensor:
    """int64 n: classes at least as likely as the label, itself included; from n x classes.

    So equal probabilities are always wrong; a NaN has rank 0, wrong too.
    """
    return (probabilities >= probabilities.gather(1, labels[:, None])).sum(dim=1)


def losses(of_labels: Tensor) -> Tensor:
    """float64 n: -log p of the labels; one that underflowed costs about 87, not infinity."""
    return -of_labels.double().clamp_min(torch.finfo(torch.float32).tiny).log()


def is_wrong(rank: Tensor, top: int) -> Tensor:
    """True unless this rank is among the `top` likeliest."""
    return (rank < 1) | (rank > top)


def _errors_and_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """float64 (3,): images wrong at top-1, at top-5, and the sum of losses."""
    if len(labels) == 0:
        return torch.zeros(3, dtype=torch.float64, device=labels.device)
    rank = ranks(probabilities, labels)
    loss = losses(probabilities.gather(1, labels[:, None]).squeeze(1)).sum()
    return torch.stack([is_wrong(rank, 1).sum().double(), is_wrong(rank, TOP).sum().double(), loss])
