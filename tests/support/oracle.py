"""A net whose answers a test chooses."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.client.batch import Batch
from common.wire.slab import Replaced
from trainer.feeding.feed import DeviceBatch

CPU = torch.device("cpu")


class Oracle:
    """A net's interface for validation: the images are the probabilities themselves."""

    input_devices = (CPU,)
    loss_device = CPU

    def predict(self, x_nchw: tuple[Tensor, ...]) -> Tensor:
        return x_nchw[0]


def batches(probabilities: Tensor, labels: Tensor, size: int) -> Iterator[DeviceBatch]:
    for first in range(0, len(labels), size):
        yield fed(first, probabilities[first : first + size], labels[first : first + size])


def fed(first: int, probabilities: Tensor, labels: Tensor, replaced: tuple[Replaced, ...] = ()) -> DeviceBatch:
    records = np.arange(first, first + len(labels))
    batch = Batch(0, first, np.zeros((len(labels), 1, 1, 3), np.uint8), labels.numpy(), records, replaced=replaced)
    return DeviceBatch(batch, {CPU: probabilities}, labels)
