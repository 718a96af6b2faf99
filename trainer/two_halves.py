"""The network as two halves, each on its own device: the whole schedule of a step, every wait and copy in the open.

Autograd works inside a segment. Between segments the graph is cut: a half's output is detached, copied to the other
half where the next layer reads both, and backward is driven segment by segment, last first:

    forward    send the inputs across; z = the first layer's own part, while they travel; wait; z += the peer's part;
               the rest of the segment from z on
    backward   the rest down to dz; from that the peer's input gradient; send it; the own input's gradient and all
               the first layer's weights', while it travels; wait; own + received is what the segment below begins with

Gradients are asked for (`autograd.grad`) and assigned, never accumulated: an AccumulateGrad node would bring a stream
of its own. Each half's work is queued on one compute stream; at its ends a step joins the devices' current streams.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.blocks import Placement
from trainer.dropout import Dropout, Masking, Scaling
from trainer.exchange import Exchange, Link, Route
from trainer.halves import Half, Segment, segments
from trainer.initial import initial_tensors
from trainer.model import HALVES, loss_and_error, reference_shapes
from trainer.net import Pixels
from trainer.recipe import Recipe
from trainer.streams import Streams


@dataclass(slots=True)
class _Passage:
    """What one half keeps of one segment's forward for its backward."""

    own_input: Tensor
    peer_input: Tensor | None  # the receive buffer
    z: Tensor  # the first layer's outputs, at the end of their graph ...
    z_start: Tensor  # ... and at the start of the segment's rest
    output: Tensor


class TwoHalves(Placement):
    """A `Net` whose halves lie on `devices`; both may be one device.

    streams   makes the streams; a test's own kind watches the schedule
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int,
        devices: tuple[torch.device, torch.device],
        dtype: torch.dtype = torch.float32,
        streams: Streams | None = None,
    ) -> None:
        self._recipe, self._seed = recipe, seed
        shapes = reference_shapes(recipe)
        drawn = initial_tensors(recipe, shapes, seed=seed)
        reference = {name: tensor.to(dtype) for name, tensor in drawn.items()}
        self._halves = [Half(half, recipe, reference, device) for half, device in enumerate(devices)]
        super().__init__([placed for half in self._halves for placed in half.placed], shapes)
        self._streams = streams or Streams()
        self._compute = [self._streams.stream(device, f"compute {half}") for half, device in enumerate(devices)]
        self._begin = [self._streams.event(device, f"begin {half}") for half, device in enumerate(devices)]
        self._end = [self._streams.event(device, f"end {half}") for half, device in enumerate(devices)]
        self._segments = segments()
        self._exchanges = self._make_exchanges(devices)
        self.input_devices: tuple[torch.device, ...] = devices
        self.loss_device = devices[0]

    def train_step(self, x_nchw: Pixels, labels: Tensor, *, step: int) -> Tensor:
        with self._step():
            for _, parameter in self._placed:
                parameter.grad = None
            passages = self._forward(x_nchw, Masking(self._recipe.dropout, self._seed, step))
            with self._on(0):
                logits = passages[-1][0].output.detach().requires_grad_()
                loss = F.cross_entropy(logits, labels)
                (gradient,) = torch.autograd.grad(loss, logits)
            self._backward(passages, gradient)
            with self._on(0):
                return loss_and_error(loss, logits, labels)

    @torch.no_grad()
    def predict(self, x_nchw: Pixels) -> Tensor:
        with self._step():
            passages = self._forward(x_nchw, Scaling(self._recipe.dropout))
            for segment in self._segments:
                self._release_activations(segment)
            with self._on(0):
                return passages[-1][0].output.softmax(dim=1)

    # Forward

    def _forward(self, x_nchw: Pixels, dropout: Dropout) -> list[dict[int, _Passage]]:
        """By segment, then half. Outputs begin no graph: the next segment's own input is a detached leaf."""
        passages: list[dict[int, _Passage]] = []
        outputs: Sequence[Tensor] = x_nchw
        for segment in self._segments:
            passages.append(self._segment_forward(segment, outputs, dropout))
            outputs = [passage.output.detach() for passage in passages[-1].values()]
        return passages

    def _segment_forward(self, segment: Segment, inputs: Sequence[Tensor], dropout: Dropout) -> dict[int, _Passage]:
        exchange = self._exchanges.get(segment.first)
        if exchange:
            for target, link in exchange.activation.items():
                link.send(inputs[1 - target])
        own_inputs, parts = {}, {}
        for half in segment.on:
            with self._on(half):
                own_inputs[half] = inputs[half].detach().requires_grad_(segment.exchanges)
                parts[half] = self._halves[half].own(segment.first, own_inputs[half])
        passages = {}
        for half in segment.on:
            with self._on(half):
                z, peer_input = parts[half], None
                if exchange:
                    peer_input = exchange.activation[half].receive().detach().requires_grad_()
                    z += self._halves[half].peer(segment.first, peer_input)
                z_start = z.detach().requires_grad_(z.requires_grad)
                output = self._halves[half].finish(segment, z_start, dropout)
                passages[half] = _Passage(own_inputs[half], peer_input, z, z_start, output)
        return passages

    # Backward

    def _backward(self, passages: list[dict[int, _Passage]], gradient: Tensor) -> None:
        """Leave every block's gradient in its `.grad`, from the loss's gradient by the logits."""
        gradients = {0: gradient}
        for segment, of_halves in zip(reversed(self._segments), reversed(passages), strict=True):
            gradients = self._segment_backward(segment, of_halves, gradients)

    def _segment_backward(
        self, segment: Segment, passages: dict[int, _Passage], gradients: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """The outputs' gradients to those of the segment below, by half."""
        dz = {}
        for half, passage in passages.items():
            with self._on(half):
                dz[half] = self._rest_backward(segment, half, passage, gradients[half])
                self._send_gradient(segment, half, passage, dz[half])
        own = {}
        for half, passage in passages.items():
            with self._on(half):
                own[half] = self._first_backward(segment, half, passage, dz[half])
        self._release_activations(segment)
        return self._sum_gradients(segment, own)

    def _rest_backward(self, segment: Segment, half: int, passage: _Passage, gradient: Tensor) -> Tensor:
        """From the segment's output down to its first layer's z; the later layers' weights on the way."""
        weights = [self._halves[half].weights(layer) for layer in segment.layers[1:]]
        parameters = [parameter for layer in weights for parameter in (layer.own, layer.bias)]
        dz, *others = torch.autograd.grad(passage.output, [passage.z_start, *parameters], gradient)
        _assign(parameters, others)
        return dz

    def _send_gradient(self, segment: Segment, half: int, passage: _Passage, dz: Tensor) -> None:
        """The peer's input gradient comes first, so that its copy overlaps all that is left of the segment."""
        if passage.peer_input is not None:
            (peer,) = torch.autograd.grad(passage.z, passage.peer_input, dz, retain_graph=True)
            self._exchanges[segment.first].gradient[1 - half].send(peer)

    def _first_backward(self, segment: Segment, half: int, passage: _Passage, dz: Tensor) -> Tensor | None:
        """The first layer's weights, and its own input's gradient unless that is the image."""
        weights = self._halves[half].weights(segment.first)
        parameters = [weights.own, weights.bias] + ([weights.peer] if weights.peer is not None else [])
        if not segment.exchanges:
            _assign(parameters, torch.autograd.grad(passage.z, parameters, dz))
            return None
        own, *others = torch.autograd.grad(passage.z, [passage.own_input, *parameters], dz)
        _assign(parameters, others)
        return own

    def _sum_gradients(self, segment: Segment, own: dict[int, Tensor | None]) -> dict[int, Tensor]:
        """Own part plus received part, in this order, where there are both."""
        if not segment.exchanges:
            return {}
        total = {half: gradient for half, gradient in own.items() if gradient is not None}
        for half, link in self._exchanges[segment.first].gradient.items():
            with self._on(half):
                received = link.receive()
                total[half] = total[half].add_(received) if half in total else received.clone()
                link.release()
        return total

    # Streams

    def _make_exchanges(self, devices: tuple[torch.device, torch.device]) -> dict[str, Exchange]:
        routes = {
            source: Route.between(self._streams, devices[source], devices[1 - source], f"{source} to {1 - source}")
            for source in range(HALVES)
        }

        def link(source: int, name: str) -> Link:
            target = 1 - source
            return Link(self._streams, routes[source], self._compute[source], self._compute[target], name)

        return {
            segment.first: Exchange(
                activation={half: link(1 - half, f"{segment.first} activation to {half}") for half in segment.on},
                gradient={1 - half: link(half, f"{segment.first} gradient to {1 - half}") for half in segment.on},
            )
            for segment in self._segments
            if segment.exchanges
        }

    def _release_activations(self, segment: Segment) -> None:
        if segment.exchanges:
            for link in self._exchanges[segment.first].activation.values():
                link.release()

    def _on(self, half: int) -> contextlib.AbstractContextManager[None]:
        return self._streams.on(self._compute[half])

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Begin after what the caller has queued, and let what the caller queues next begin after this."""
        for event, compute in zip(self._begin, self._compute, strict=True):
            self._streams.record(event, self._streams.current(compute.device))
            self._streams.wait(compute, event)
        yield
        for exchange in self._exchanges.values():
            for link in exchange.links:
                link.settle()
        for event, compute in zip(self._end, self._compute, strict=True):
            self._streams.record(event, compute)
            self._streams.wait(self._streams.current(compute.device), event)


def _assign(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
