"""Validation: how often the network is wrong on pictures it has not trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.feed import FedBatch
from trainer.net import Net

TOP = 5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of pictures, 0 to 1, whose label is not the likeliest and not among the five likeliest; mean -log p."""

    top1_error: float
    top5_error: float
    loss: float
    images: int


def evaluate(net: Net, batches: Iterable[FedBatch]) -> Evaluation:
    """Go through `batches` once; the host waits for the device at the very end."""
    totals = torch.zeros(3, dtype=torch.float64, device=net.loss_device)  # top-1 errors, top-5 errors, sum of losses
    images = 0
    for batch in batches:
        probabilities = net.predict(batch.x_nchw)  # n x classes
        totals += _errors_and_loss(probabilities, batch.labels)
        images += len(batch.labels)
    if images == 0:
        raise ValueError("there was no picture to evaluate on")
    top1_errors, top5_errors, loss = totals.tolist()
    return Evaluation(top1_errors / images, top5_errors / images, loss / images, images)


def _errors_and_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """float64 (3,): pictures wrong at top-1, wrong at top-5, and the sum of -log p of the labels.

    A label's rank counts every class at least as likely, itself included, so a network that gives all classes the
    same probability is wrong everywhere rather than right everywhere; a NaN has rank 0 and is wrong too.
    """
    of_label = probabilities.gather(1, labels[:, None])  # n x 1
    rank = (probabilities >= of_label).sum(dim=1)
    wrong_at_1 = (rank != 1).sum()
    wrong_at_5 = ((rank < 1) | (rank > TOP)).sum()
    tiny = torch.finfo(probabilities.dtype).tiny  # a probability that underflowed costs about 87, not infinity
    loss = -of_label.clamp_min(tiny).log().sum(dtype=torch.float64)
    return torch.stack([wrong_at_1.double(), wrong_at_5.double(), loss])
