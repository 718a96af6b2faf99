"""The training loop's interface to a network.

A net computes on streams of its own, but behaves as if its work were queued on the *current* stream of each of its
devices. No call waits for a device; reading a result on the host does.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.network.parameters import Keeper, Parameter, assign_gradients

# For each of `input_devices`, in `input_dtype`: n x 3 x 227 x 227, less the mean and scaled; or the same with a row and
# a column that conv1 does not read, folded to n x 48 x 57 x 57 (`trainer.ops.convolution.space_to_depth`).
Pixels = tuple[Tensor, ...]


class Net(Protocol):
    @property
    def input_devices(self) -> tuple[torch.device, ...]:
        """The device of each half's pixels."""

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of pixels and activations."""

    @property
    def loss_device(self) -> torch.device:
        """The device of labels, loss and probabilities."""

    def train_step(
        self,
        x_nchw: Pixels,
        labels: Tensor,
        *,
        step: int,
        first: int = 0,
        whole: int | None = None,
        keep: Keeper = assign_gradients,
    ) -> Tensor:
        """Compute gradients and hand them to `keep`; return `model.loss_and_error`.

        labels   int64 n, on `loss_device`
        step     decides, with the seed, the dropout masks
        first    the batch's first image among those of the batch of which it is a part
        whole    images of that; None if the batch is no part
        keep     called as soon as a group of `buckets` or some of it is computed, with tensors that, like the result,
                 the next step may overwrite
        """

    def predict(self, x_nchw: Pixels) -> Tensor:
        """Softmax probabilities, n x classes, on `loss_device`, which the next call may overwrite."""

    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        """Outputs of a hidden fc layer, n x units, as in test.

        In parts, each on its device; joined, their columns are the reference's. Raises UsageError for any other layer.
        """

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Every block; those of one reference tensor share its name."""

    @property
    def buckets(self) -> Sequence[Sequence[Parameter]]:
        """The parameters of each device, in the order in which their gradients are computed."""

    def gather(self, tensors: Mapping[Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        """CPU copies of the weights, or of `tensors`, in the reference's names and shapes."""

    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[Parameter, Tensor] | None = None) -> None:
        """The inverse of `gather`. Raises CheckpointError if a name is missing or unknown, or a shape differs."""
