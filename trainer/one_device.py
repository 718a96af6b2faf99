"""The whole network on one device: the reference, trained."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import blocks
from trainer.blocks import Block, Placed
from trainer.dropout import Masking, Scaling
from trainer.model import AlexNet, loss_and_error, reference_shapes
from trainer.net import Pixels
from trainer.recipe import Recipe


class OneDevice:
    """A `Net` of undivided tensors, computing on the device's current stream."""

    def __init__(self, recipe: Recipe, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._recipe, self._seed = recipe, seed
        self._model = AlexNet(recipe, seed=seed, dtype=dtype).to(device)
        self._shapes = reference_shapes(recipe)
        self._placed: Placed = [(Block(name), block) for name, block in self._model.named_parameters()]
        self.input_devices: tuple[torch.device, ...] = (device,)
        self.loss_device = device

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        self._model.zero_grad(set_to_none=True)
        logits = self._model(x_nchw[0], Masking(self._recipe.dropout, self._seed, step))
        loss = F.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss_and_error(loss, logits, labels)

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        logits: Tensor = self._model(x_nchw[0], Scaling(self._recipe.dropout))
        return logits.softmax(dim=1)

    def parameters_by_name(self) -> list[tuple[str, nn.Parameter]]:
        return [(block.name, parameter) for block, parameter in self._placed]

    def gather(self, tensors: Mapping[nn.Parameter, Tensor] | None = None) -> dict[str, Tensor]:
        return blocks.gather(self._placed, self._shapes, tensors)

    def scatter(self, tensors: Mapping[str, Tensor], into: Mapping[nn.Parameter, Tensor] | None = None) -> None:
        blocks.scatter(self._placed, self._shapes, tensors, into)
