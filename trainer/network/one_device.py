"""The whole network on one device."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from trainer.device.graphs import GraphRunner
from trainer.device.streams import Side, Streams
from trainer.network.initial import initial_tensors
from trainer.network.model import check_hidden, hidden, logits, loss_and_error, loss_of
from trainer.network.net import Pixels
from trainer.network.parameters import Block, Gradients, Parameter, Placement, assign_gradients
from trainer.ops.dropout import Masking, Scaling
from trainer.recipes.recipe import Recipe


class OneDevice(Placement):
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
        reference = initial_tensors(recipe, seed=seed)
        parameters = [Parameter(Block(name), tensor, device, dtype) for name, tensor in reference.items()]
        super().__init__(parameters, reference)
        self._recipe = recipe
        self._operands = {parameter.name: parameter.operand for parameter in self.parameters}
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._masking = Masking(recipe.dropout, seed, (self._step, self._step))
        streams = streams or Streams()
        self._streams, self._side = streams, Side(streams, device, "0")
        self._runner, self._predict_runner, self._features_runner = (
            GraphRunner(streams, [self._side], recorded=recorded) for recorded in (graphs, graphs, False)
        )
        self.input_devices: tuple[torch.device, ...] = (device,)
        self.input_dtype, self.loss_device = dtype, device

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        with self._streams.on(self._streams.current(self.loss_device)):
            self._step.fill_(step)
        return self._runner.run(self._train, [*x_nchw, labels])

    def _train(self, inputs: Sequence[Tensor]) -> Tensor:
        result, gradients = self._runner.piece(self._side.stream, "step", partial(self._forward_backward, *inputs))
        assign_gradients(gradients)
        return result

    def _forward_backward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Gradients]:
        scores = logits(x, self._operands, self._recipe, self._masking)
        loss = loss_of(scores, labels)
        gradients = torch.autograd.grad(loss, list(self._operands.values()))
        return loss_and_error(loss, scores, labels), dict(zip(self.parameters, gradients, strict=True))

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        return self._predict_runner.run(self._predict, x_nchw)

    @torch.no_grad()
    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        check_hidden(layer, self._recipe)
        work = partial(hidden, x_nchw[0], self._operands, self._recipe, Scaling(self._recipe.dropout), layer)
        runner = self._features_runner
        return (runner.run(lambda _: runner.piece(self._side.stream, layer, work)).float(),)

    def _predict(self, x_nchw: Sequence[Tensor]) -> Tensor:
        return self._predict_runner.piece(self._side.stream, "predict", partial(self._probabilities, *x_nchw))

    def _probabilities(self, x_nchw: Tensor) -> Tensor:
        return logits(x_nchw, self._operands, self._recipe, Scaling(self._recipe.dropout)).float().softmax(dim=1)
