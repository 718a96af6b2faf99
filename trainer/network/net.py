"""What the training loop sees of a network, wherever its weights lie: `OneDevice` and `TwoHalves`.

Streams. A net may compute on streams of its own, but behaves as if its work were queued on the *current* stream of each
of its devices: it begins after what is queued there, and what is queued there afterwards begins after it. So the
optimiser, and whoever fills or reuses the input, need no word of streams; only pixels copied on another stream must be
waited for by the current one before a step. No step waits for a device; reading a returned tensor on the host does.
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
        """Where `x_nchw` is wanted: one device for each half, which may be the same one."""

    @property
    def input_dtype(self) -> torch.dtype:
        """The type of pixels and activations."""

    @property
    def loss_device(self) -> torch.device:
        """Where labels are wanted, and loss and probabilities appear."""

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        """Forward and backward. Gives two numbers: the mean cross-entropy, and the share of pictures whose likeliest
        class, as the step's own forward has it, is wrong; both may be overwritten by the next step. Leaves each
        parameter the former's gradient.

        labels   int64 n, on `loss_device`
        step     number of this step in the whole run: with the seed it decides the dropout masks
        """

    def predict(self, x_nchw: Pixels) -> Tensor:
        """Softmax probabilities, n x classes, on `loss_device`; no gradient, dropout as in test."""

    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        """What a hidden fc layer gives to the next: n x units, after its activation, times 1 - dropout as in test.

        In parts, whose columns joined in this order are the reference's, each on the device that computes it. Raises
        UsageError where there is no such layer.
        """

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Every block of weights; blocks of one reference tensor share its name."""

    def gather(self, tensors: Mapping[Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        """Copies on the CPU, in the reference's names and shapes, of the weights or of `tensors`.

        tensors   one for each parameter, of its shape, such as velocities
        """

    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[Parameter, Tensor] | None = None) -> None:
        """The inverse of `gather`: write reference-shaped tensors to the blocks, or to the tensors of `into`.

        Raises CheckpointError where a name is missing or unknown, or a shape is another's.
        """
