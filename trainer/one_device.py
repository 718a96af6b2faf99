"""The whole network on one device: the reference, trained."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.blocks import Block, Placement
from trainer.dropout import Masking, Scaling
from trainer.model import AlexNet, loss_and_error, reference_shapes
from trainer.net import Pixels
from trainer.recipe import Recipe


class OneDevice(Placement):
    """A `Net` of undivided tensors, computing on the device's current stream."""

    def __init__(self, recipe: Recipe, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._recipe, self._seed = recipe, seed
        self._model = AlexNet(recipe, seed=seed, dtype=dtype).to(device)
        placed = [(Block(name), parameter) for name, parameter in self._model.named_parameters()]
        super().__init__(placed, reference_shapes(recipe))
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
