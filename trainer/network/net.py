"""The training loop's interface to a network, wherever its weights lie: `OneDevice` and `TwoHalves`.

A net may compute on streams of its own, but behaves as if its work were queued on the *current* stream of each of its
devices. So the optimiser, and whoever fills or reuses the input, need not know about streams; only pixels copied on
another stream must be waited for by the current one before a step. No step waits for a device; reading a returned
tensor on the host does.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.network.parameters import Parameter

# For each of `input_devices`, in `input_dtype`: n x 3 x 227 x 227, less the mean and scaled; or the same with a row and
# a column that conv1 does not read, folded to n x 48 x 57 x 57 (`trainer.ops.convolution.space_to_depth`).
Pixels = tuple[Tensor, ...]


class Net(Protocol):
    @property
    def input_devices(self) -> tuple[torch.device, ...]:
        """The device of each half's `x_nchw`; they may be the same."""

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of pixels and activations."""

    @property
    def loss_device(self) -> torch.device:
        """The device of labels, loss and probabilities."""

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        """Forward and backward. Assigns each parameter's gradient, and returns `model.loss_and_error`, which the next
        step may overwrite.

        labels   int64 n, on `loss_device`
        step     number of this step in the run; with the seed it decides the dropout masks
        """

    def predict(self, x_nchw: Pixels) -> Tensor:
        """Softmax probabilities, n x classes, on `loss_device`; no gradient, dropout as in test."""

    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        """Outputs of a hidden fc layer after its activation, times 1 - dropout as in test: n x units.

        In parts, each on the device that computes it; joined in this order their columns are the reference's. Raises
        UsageError if there is no such layer.
        """

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Every block of weights; the blocks of one reference tensor share its name."""

    def gather(self, tensors: Mapping[Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        """CPU copies of the weights, or of `tensors`, in the reference's names and shapes.

        tensors   one for each parameter, of its shape, such as velocities
        """

    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[Parameter, Tensor] | None = None) -> None:
        """The inverse of `gather`: write reference-shaped tensors to the blocks, or to the tensors of `into`.

        Raises CheckpointError if a name is missing or unknown, or a shape differs.
        """
