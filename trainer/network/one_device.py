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
from trainer.network.parameters import Block, Gradients, Keeper, Parameter, Placement, assign_gradients
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
        self.buckets = [self.parameters]
        self._masking = Masking.at_start(recipe.dropout, seed, device, device)
        streams = streams or Streams()
        self._streams, self._side = streams, Side(streams, device, "0")
        self._runner, self._predict_runner, self._features_runner = (
            GraphRunner(streams, [self._side], recorded=recorded) for recorded in (graphs, graphs, False)
        )
        self.input_devices: tuple[torch.device, ...] = (device,)
        self.input_dtype, self.loss_device = dtype, device

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
        masking = self._masking.part_of(whole)
        masking.move_to(step, first, self._streams)
        train = partial(self._train, masking, len(labels) if whole is None else whole, keep)
        return self._runner.run(train, [*x_nchw, labels], whole)

    def _train(self, masking: Masking, whole: int, keep: Keeper, inputs: Sequence[Tensor]) -> Tensor:
        x, labels = inputs
        work = partial(self._forward_backward, x, labels, masking, whole)
        result, gradients = self._runner.piece(self._side.stream, "step", work)
        self._runner.between(partial(keep, gradients, self._side.stream))
        return result

    def _forward_backward(self, x: Tensor, labels: Tensor, masking: Masking, whole: int) -> tuple[Tensor, Gradients]:
        scores = logits(x, self._operands, self._recipe, masking)
        loss = loss_of(scores, labels, whole)
        gradients = torch.autograd.grad(loss, list(self._operands.values()))
        return loss_and_error(loss, scores, labels, whole), dict(zip(self.parameters, gradients, strict=True))

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
