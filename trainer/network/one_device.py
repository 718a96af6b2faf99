"""The whole network on one device: the reference, trained."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from trainer.device.graphs import Pieces
from trainer.device.streams import Side, Streams
from trainer.network.initial import initial_tensors
from trainer.network.model import check_hidden, hidden, logits, loss_and_error, loss_of, reference_shapes
from trainer.network.net import Pixels
from trainer.network.parameters import Block, Gradients, Parameter, Placement, keep
from trainer.ops.dropout import Masking, Scaling
from trainer.recipes.recipe import Recipe


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
        self._streams, self._side = streams, Side(streams, device, "0")
        self._pieces, self._prediction_pieces = (Pieces(streams, [self._side], recorded=graphs) for _ in range(2))
        self._feature_pieces = Pieces(streams, [self._side], recorded=False)
        self.input_devices: tuple[torch.device, ...] = (device,)
        self.input_dtype, self.loss_device = dtype, device

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        with self._streams.on(self._streams.current(self.loss_device)):
            self._step.fill_(step)
        return self._pieces.play(self._train, [*x_nchw, labels])

    def _train(self, inputs: Sequence[Tensor]) -> Tensor:
        told, gradients = self._pieces.piece(self._side.stream, "step", partial(self._forward_backward, *inputs))
        keep(gradients)
        return told

    def _forward_backward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Gradients]:
        scores = logits(x, self._operands, self._recipe, self._masking)
        loss = loss_of(scores, labels)
        gradients = torch.autograd.grad(loss, list(self._operands.values()))
        return loss_and_error(loss, scores, labels), dict(zip(self.parameters, gradients, strict=True))

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        return self._prediction_pieces.play(self._predict, x_nchw)

    @torch.no_grad()
    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        check_hidden(layer, self._recipe)
        work = partial(hidden, x_nchw[0], self._operands, self._recipe, Scaling(self._recipe.dropout), layer)
        return (
            self._feature_pieces.play(lambda _: self._feature_pieces.piece(self._side.stream, layer, work)).float(),
        )

    def _predict(self, x_nchw: Sequence[Tensor]) -> Tensor:
        return self._prediction_pieces.piece(self._side.stream, "predict", partial(self._probabilities, *x_nchw))

    def _probabilities(self, x_nchw: Tensor) -> Tensor:
        return logits(x_nchw, self._operands, self._recipe, Scaling(self._recipe.dropout)).float().softmax(dim=1)
