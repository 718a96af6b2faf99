"""Validation between epochs, and its measures."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.client.batch import Batch
from trainer.feeding.feed import DeviceBatch
from trainer.network.net import Net

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


def evaluate(net: Net, batches: Iterable[DeviceBatch]) -> Evaluation:
    """Errors over `batches`, without a record in a corrupt one's place: it has its own.

    The host waits for the device only at the end.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=net.loss_device)  # top-1 errors, top-5 errors, sum of losses
    images = 0
    for fed in batches:
        probabilities, labels = net.predict(fed.inputs(net)), fed.labels  # n x classes, n
        if fed.batch.replaced:
            own = torch.tensor(places_with_own(fed.batch), device=labels.device)
            probabilities, labels = probabilities[own], labels[own]
        totals += _errors_and_loss(probabilities, labels)
        images += len(labels)
    if images == 0:
        raise ValueError("there was no image to evaluate on")
    top1_errors, top5_errors, loss = totals.tolist()
    top5_error = top5_errors / images if probabilities.shape[1] > TOP else None
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
    rank = ranks(probabilities, labels)
    loss = losses(probabilities.gather(1, labels[:, None]).squeeze(1)).sum()
    return torch.stack([is_wrong(rank, 1).sum().double(), is_wrong(rank, TOP).sum().double(), loss])
