"""The network as two halves, each on its own device: the whole schedule of a step, with every wait and copy.

Autograd works inside a segment. Between segments the graph is cut: a half's output is detached, copied to the other
half if the next layer reads both, and backward runs segment by segment, last first:

    forward    send the inputs across; meanwhile z = the first layer's own part; wait; z += the peer's part; the rest
               of the segment from z on
    backward   the rest down to dz; the peer's input gradient from it; send that; meanwhile the gradients by the own
               input and the first layer's weights; wait; own + received is the gradient of the segment below

Gradients come from `autograd.grad`, for an AccumulateGrad node would bring a stream of its own. Each half's work is
queued on one compute stream, in pieces that CUDA graphs may replay: a piece only computes tensors and returns them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from common.errors import UsageError
from trainer.device.devices import HALVES
from trainer.device.graphs import GraphRunner
from trainer.device.streams import Side, Streams
from trainer.network.exchange import Crossing, Exchange, Link, Route, Ways
from trainer.network.halves import Half, Segment, segments
from trainer.network.initial import initial_tensors
from trainer.network.model import check_hidden, loss_and_error, loss_of
from trainer.network.net import Pixels
from trainer.network.parameters import Gradients, Keeper, Placement, assign_gradients
from trainer.ops.dropout import Dropout, Masking, Scaling
from trainer.recipes.recipe import Recipe


@dataclass(slots=True)
class _Passage:
    """One segment's forward on one half, for its backward."""

    own_input: Tensor
    peer_input: Tensor | None  # the receive buffer, or what was made of it
    z: Tensor  # the first layer's outputs, at the end of their graph ...
    z_start: Tensor  # ... and at the start of the segment's rest
    output: Tensor
    sent: Tensor  # the output as it crosses


@dataclass(slots=True)
class _Gradient:
    own: Tensor | None
    received: Link | None

    def total(self, buffer: Tensor | None) -> Tensor:
        """Own plus received, always in this order."""
        if buffer is None:
            assert self.own is not None
            return self.own
        return buffer.clone() if self.own is None else self.own.add_(buffer)


@dataclass(frozen=True, slots=True)
class _Part:
    """All that a step's arithmetic needs besides its inputs; `whole` is their number if they are no part."""

    masking: Masking
    whole: int
    keep: Keeper


class TwoHalves(Placement):
    """A `Net` whose halves lie on `devices`; both may be one device."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int,
        devices: tuple[torch.device, torch.device],
        dtype: torch.dtype = torch.float32,
        ways: Ways = ("direct", "direct"),
        streams: Streams | None = None,
        graphs: bool = False,
    ) -> None:
        self._recipe = recipe
        reference = initial_tensors(recipe, seed=seed)
        self._halves = [Half(half, recipe, reference, device, dtype) for half, device in enumerate(devices)]
        super().__init__([parameter for half in self._halves for parameter in half.parameters], reference)
        self._streams = streams or Streams()
        self._sides = [Side(self._streams, device, str(half)) for half, device in enumerate(devices)]
        self._compute = [side.stream for side in self._sides]
        self._runner, self._predict_runner, self._features_runner = (
            GraphRunner(self._streams, self._sides, recorded=recorded) for recorded in (graphs, graphs, False)
        )
        self._masking = Masking.at_start(recipe.dropout, seed, *devices)
        self._segments = segments(recipe)
        self.buckets = [self._halves[half].of(segment) for segment in reversed(self._segments) for half in segment.on]
        self._crossing = Crossing.of(recipe.exchange, dtype)
        self._exchanges = self._make_exchanges(devices, ways)
        self._links = [link for exchange in self._exchanges.values() for link in exchange.links]
        self.input_devices: tuple[torch.device, ...] = devices
        self.input_dtype, self.loss_device = dtype, devices[0]

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
        addresses = tuple(link.address for link in self._links)
        part = _Part(masking, len(labels) if whole is None else whole, keep)
        return self._runner.run(partial(self._train, part), [*x_nchw, labels], (addresses, whole))

    def _train(self, part: _Part, inputs: Sequence[Tensor]) -> Tensor:
        *x_nchw, labels = inputs
        passages = self._forward(self._runner, x_nchw, part.masking)
        loss = partial(_loss, passages[-1][0].output, labels, part.whole)
        result, gradient = self._runner.piece(self._compute[0], "loss", loss)
        self._backward(passages, gradient, part)
        self._settle()
        return result

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        addresses = tuple(link.address for link in self._links)
        return self._predict_runner.run(self._predict, x_nchw, addresses)

    def _predict(self, x_nchw: Sequence[Tensor]) -> Tensor:
        passages = self._forward_only(self._predict_runner, x_nchw)
        scores = passages[-1][0].output
        return self._predict_runner.piece(self._compute[0], "softmax", lambda: scores.float().softmax(dim=1))

    @torch.no_grad()
    def features(self, x_nchw: Pixels, layer: str) -> tuple[Tensor, ...]:
        check_hidden(layer, self._recipe)
        ends = [segment.layers[-1].name for segment in self._segments]
        if layer not in ends:
            raise UsageError(f"the halves do not exchange after {layer}: its features are had with --net one-device")
        passages = self._features_runner.run(partial(self._forward_only, self._features_runner), x_nchw)
        return tuple(passage.output.float() for _, passage in sorted(passages[ends.index(layer)].items()))

    def _forward_only(self, runner: GraphRunner, x_nchw: Sequence[Tensor]) -> list[dict[int, _Passage]]:
        passages = self._forward(runner, x_nchw, Scaling(self._recipe.dropout))
        for segment in self._segments:
            self._release_activations(segment)
        self._settle()
        return passages

    # Forward

    def _forward(self, runner: GraphRunner, x_nchw: Sequence[Tensor], dropout: Dropout) -> list[dict[int, _Passage]]:
        passages: list[dict[int, _Passage]] = []
        outputs = sent = x_nchw
        for segment in self._segments:
            passages.append(self._segment_forward(runner, segment, outputs, sent, dropout))
            outputs = [passage.output.detach() for passage in passages[-1].values()]
            sent = [passage.sent for passage in passages[-1].values()]
        return passages

    def _segment_forward(
        self, runner: GraphRunner, segment: Segment, inputs: Sequence[Tensor], sent: Sequence[Tensor], dropout: Dropout
    ) -> dict[int, _Passage]:
        exchange = self._exchanges.get(segment.first.name)
        if exchange:
            for target, link in exchange.activation.items():
                link.send(sent[1 - target])
        parts = {}
        for half in segment.on:
            own = partial(self._own_forward, segment, half, inputs[half])
            parts[half] = runner.piece(self._compute[half], f"{segment.first.name} own", own)
        passages = {}
        for half in segment.on:
            received = exchange.activation[half].receive() if exchange else None
            rest = partial(self._rest_forward, segment, half, *parts[half], received, dropout)
            passages[half] = runner.piece(self._compute[half], f"{segment.first.name} forward", rest)
        return passages

    def _own_forward(self, segment: Segment, half: int, own_input: Tensor) -> tuple[Tensor, Tensor]:
        own_input = own_input.detach().requires_grad_(segment.exchanges)
        return own_input, self._halves[half].own(segment.first, own_input)

    def _rest_forward(
        self, segment: Segment, half: int, own_input: Tensor, z: Tensor, received: Tensor | None, dropout: Dropout
    ) -> _Passage:
        peer_input = None
        if received is not None:
            peer_input = self._crossing.receive(received).detach().requires_grad_()
            z += self._halves[half].peer(segment.first, peer_input)
        z_start = z.detach().requires_grad_(z.requires_grad)
        output = self._halves[half].finish(segment, z_start, dropout)
        return _Passage(own_input, peer_input, z, z_start, output, self._crossing.send(output.detach()))

    # Backward

    def _backward(self, passages: list[dict[int, _Passage]], gradient: Tensor, part: _Part) -> None:
        gradients = {0: _Gradient(gradient, None)}
        for segment, of_halves in zip(reversed(self._segments), reversed(passages), strict=True):
            gradients = self._segment_backward(segment, of_halves, gradients, part)

    def _segment_backward(
        self, segment: Segment, passages: dict[int, _Passage], gradients: dict[int, _Gradient], part: _Part
    ) -> dict[int, _Gradient]:
        exchange = self._exchanges.get(segment.first.name)
        dz = {}
        for half, passage in passages.items():
            gradient = gradients[half]
            received = gradient.received.receive() if gradient.received else None
            rest = partial(self._rest_backward, segment, half, passage, gradient, received, part.whole)
            dz[half], peer, grads = self._runner.piece(self._compute[half], f"{segment.first.name} backward", rest)
            if gradient.received:
                gradient.received.release()
            if exchange:
                exchange.gradient[1 - half].send(peer)
            self._runner.between(partial(part.keep, grads, self._compute[half]))
        own = {}
        for half, passage in passages.items():
            first = partial(self._first_backward, segment, half, passage, dz[half])
            own[half], grads = self._runner.piece(self._compute[half], f"{segment.first.name} own backward", first)
            self._runner.between(partial(part.keep, grads, self._compute[half]))
        if not exchange:
            return {}
        self._release_activations(segment)
        return {half: _Gradient(own.get(half), exchange.gradient.get(half)) for half in range(HALVES)}

    def _rest_backward(
        self,
        segment: Segment,
        half: int,
        passage: _Passage,
        gradient: _Gradient,
        received: Tensor | None,
        whole: int,
    ) -> tuple[Tensor, Tensor, Gradients]:
        """The gradients by z, the peer's input and the parameters above z."""
        weights = [self._halves[half].weights(layer) for layer in segment.layers]
        parameters = [layer.own for layer in weights[1:]] + [layer.bias for layer in weights]
        wanted = [passage.z_start, *(parameter.operand for parameter in parameters)]
        received = None if received is None else self._crossing.receive_gradient(received, whole)
        dz, *others = torch.autograd.grad(passage.output, wanted, gradient.total(received))
        gradients = dict(zip(parameters, others, strict=True))
        if passage.peer_input is None:
            return dz, dz, gradients
        (peer,) = torch.autograd.grad(passage.z, passage.peer_input, dz, retain_graph=True)
        return dz, self._crossing.send_gradient(peer, whole), gradients

    def _first_backward(
        self, segment: Segment, half: int, passage: _Passage, dz: Tensor
    ) -> tuple[Tensor | None, Gradients]:
        """The gradients by the own input, None for the image, and the first layer's weights."""
        weights = self._halves[half].weights(segment.first)
        parameters = [weights.own] + ([weights.peer] if weights.peer is not None else [])
        operands = [parameter.operand for parameter in parameters]
        if not segment.exchanges:
            return None, dict(zip(parameters, torch.autograd.grad(passage.z, operands, dz), strict=True))
        own, *others = torch.autograd.grad(passage.z, [passage.own_input, *operands], dz)
        return own, dict(zip(parameters, others, strict=True))

    # Streams

    def _make_exchanges(self, devices: tuple[torch.device, torch.device], ways: Ways) -> dict[str, Exchange]:
        def route(source: int) -> Route:
            target = 1 - source
            name = f"{source} to {target}"
            return Route.between(self._streams, devices[source], devices[target], name, ways[source])

        routes = {source: route(source) for source in range(HALVES)}

        def link(source: int, name: str) -> Link:
            target = 1 - source
            return Link(self._streams, routes[source], self._compute[source], self._compute[target], name)

        return {
            segment.first.name: Exchange(
                activation={half: link(1 - half, f"{segment.first.name} activation to {half}") for half in segment.on},
                gradient={1 - half: link(half, f"{segment.first.name} gradient to {1 - half}") for half in segment.on},
            )
            for segment in self._segments
            if segment.exchanges
        }

    def _release_activations(self, segment: Segment) -> None:
        if segment.exchanges:
            for link in self._exchanges[segment.first.name].activation.values():
                link.release()

    def _settle(self) -> None:
        for link in self._links:
            link.settle()


def _loss(output: Tensor, labels: Tensor, whole: int) -> tuple[Tensor, Tensor]:
    logits = output.detach().requires_grad_()
    loss = loss_of(logits, labels, whole)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss_and_error(loss, logits, labels, whole), gradient
