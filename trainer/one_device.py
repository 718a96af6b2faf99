"""The whole network on one device: the reference, trained."""

from functools import partial

import torch
from torch import Tensor

from trainer.blocks import Block, Parameter, Placement
from trainer.dropout import Masking, Scaling
from trainer.graphs import Pieces
from trainer.initial import initial_tensors
from trainer.model import logits, loss_and_error, loss_of, reference_shapes
from trainer.net import Pixels
from trainer.recipe import Recipe
from trainer.streams import Side, Streams


class OneDevice(Placement):
    """A `Net` of undivided tensors; a training step is one piece."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        streams: Streams | None = None,
        graphs: bool = False,
    ) -> None:
        shapes = reference_shapes(recipe)
        reference = initial_tensors(recipe, shapes, seed=seed)
        super().__init__([Parameter(Block(name), reference[name], device, dtype) for name in shapes], shapes)
        self._recipe = recipe
        self._operands = {parameter.name: parameter.operand for parameter in self.parameters}
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._masking = Masking(recipe.dropout, seed, (self._step, self._step))
        streams = streams or Streams()
        self._side, self._streams = Side(streams, device, "0"), streams
        self._pieces = Pieces(streams, recorded=graphs and device.type == "cuda")
        self.input_devices: tuple[torch.device, ...] = (device,)
        self.input_dtype, self.loss_device = dtype, device

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        (x,) = x_nchw
        self._side.begin()
        with self._streams.on(self._side.stream):
            self._step.fill_(step)
        told = self._pieces.play((x.shape, x.stride()), partial(self._schedule, x, labels))
        self._side.end()
        return told

    def _schedule(self, x: Tensor, labels: Tensor) -> Tensor:
        stream = self._side.stream
        x, labels = self._pieces.input(stream, x), self._pieces.input(stream, labels)
        return self._pieces.piece(stream, "step", partial(self._forward_backward, x, labels))

    def _forward_backward(self, x: Tensor, labels: Tensor) -> Tensor:
        scores = logits(x, self._operands, self._recipe, self._masking)
        loss = loss_of(scores, labels)
        gradients = torch.autograd.grad(loss, list(self._operands.values()))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.gradient = gradient
        return loss_and_error(loss, scores, labels)

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        return logits(x_nchw[0], self._operands, self._recipe, Scaling(self._recipe.dropout)).float().softmax(dim=1)
