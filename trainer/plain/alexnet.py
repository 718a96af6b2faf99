"""The network as a module."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import STORED_SIZE, AnyLayer, Architecture, ConvLayer, FullLayer
from .operations import ChannelNorm, GroupedLinear, HalfExchange, MapNorm, PaperDropout, wide
from .published import ablated, architecture
from .run_file import StoredNet, read_run

VIEWS = (1, 10)
MOST_WIDTH = 16


class AlexNet2012(nn.Module):
    """AlexNet as it was in 2012: grouped convolutions, local response normalisation, its own pixels.

    recipe    "source", "paper", "demo" or "cifar10"; or a recipe of a checkpoint; or an Architecture
    classes   outputs; by default the recipe's
    width     share of AlexNet's channels and units; by default the recipe's
    ablate    the paper's comparisons to make, such as "tanh" or ["no-norm", "conv6"]

    `class_names` are the outputs' names, numbers until set. State: "conv1.weight" ... "fc8.bias" as in checkpoints, and
    "mean", the mean image, float32 3 x 256 x 256, zeros until set. Raises ValueError for an impossible network.
    """

    mean: Tensor

    def __init__(
        self,
        recipe: str | Mapping[str, Any] | Architecture = "source",
        *,
        classes: int | None = None,
        width: float | None = None,
        ablate: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.architecture = net = _architecture(recipe, classes, width, ablate)
        self.class_names = tuple(map(str, range(net.classes)))
        self.register_buffer("mean", torch.zeros(3, STORED_SIZE, STORED_SIZE))
        self._add(net)

    @classmethod
    def from_run(cls, run: str | os.PathLike[str]) -> "AlexNet2012":
        """A trained network in eval mode, on the CPU.

        run   a run's folder: its best checkpoint, else its newest valid one; or a checkpoint; or a file of
              `alexnet-export --to safetensors`

        Raises FileNotFoundError if there is none, ValueError if none is valid.
        """
        return cls.of(read_run(run))

    @classmethod
    def of(cls, stored: StoredNet) -> "AlexNet2012":
        """A trained network in eval mode. Raises ValueError if the weights are of another network."""
        with torch.device("meta"):  # no weights are drawn
            net = cls(stored.architecture)
        try:
            net.load_state_dict(stored.tensors, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{stored.path}: {error}") from None
        net.class_names = stored.class_names
        return net.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the centre view, float32 n x classes, from uint8 n x 3 x 256 x 256, RGB.

        Raises TypeError or ValueError for other images.
        """
        return self._logits(self._pixels(images, *self._places()[0]))

    def probabilities(self, images: Tensor, views: int = 1) -> Tensor:
        """float32 n x classes: of the centre, or averaged over the paper's ten views; images as in `forward`."""
        if views not in VIEWS:
            raise ValueError(f"views is {views}; it is 1 or 10")
        total = sum(self._logits(self._pixels(images, *place)).softmax(dim=1) for place in self._places()[:views])
        assert isinstance(total, Tensor)
        return total / views

    def features(self, images: Tensor, layer: str = "fc7") -> Tensor:
        """Outputs of a hidden fully connected layer after activation, float32 n x units; images as in `forward`."""
        hidden = [fc.name for fc in self.architecture.fc[:-1]]
        if layer not in hidden:
            raise ValueError(f"there is no layer {layer!r} with features; there are {', '.join(hidden)}")
        return wide(self._outputs(self._pixels(images, *self._places()[0]), layer))

    def _logits(self, x: Tensor) -> Tensor:
        return wide(self._outputs(x, self.architecture.fc[-1].name))

    def _outputs(self, x: Tensor, upto: str) -> Tensor:
        for layer in self.architecture.layers:
            if layer.name in self.crossings:
                x = self.crossings[layer.name](x)
            x = self.after[layer.name](self.get_submodule(layer.name)(x))
            if layer.name == upto:
                break
        return x

    # Pixels

    def _places(self) -> list[tuple[int, int, bool]]:
        """Top, left and mirroring of the ten views, the centre first."""
        far = STORED_SIZE - self.architecture.crop
        corners = [(far // 2, far // 2), (0, 0), (0, far), (far, 0), (far, far)]
        return [(top, left, mirrored) for mirrored in (False, True) for top, left in corners]

    def _pixels(self, images: Tensor, top: int, left: int, mirrored: bool) -> Tensor:
        """A view less the mean image's centre, scaled, with zeros at the right and bottom."""
        _check(images)
        net = self.architecture
        cut = images[:, :, top : top + net.crop, left : left + net.crop]
        middle = (STORED_SIZE - net.crop) // 2
        mean = wide(self.mean)[None, :, middle : middle + net.crop, middle : middle + net.crop]
        cut = (cut.flip(3) if mirrored else cut).to(mean.dtype)
        x = (self.shrunk(cut) - self.shrunk(mean)) * net.test_scale
        missing = net.input_size - net.crop // net.shrink
        return nn.functional.pad(x, (0, missing, 0, missing)).to(self.mean.dtype)

    # Construction

    def _add(self, net: Architecture) -> None:
        self.shrunk = nn.AvgPool2d(net.shrink) if net.shrink > 1 else nn.Identity()
        self.after, self.crossings = nn.ModuleDict(), nn.ModuleDict()
        full = replace(net, width=1.0)
        inputs = inputs_at_width_1 = 3
        for layer in net.layers:
            widening = inputs_at_width_1 / inputs
            groups = net.columns if layer.reads == "own" else 1
            if layer.reads == "both" and net.exchange == "float16" and net.columns == 2:
                groups = 1 if layer is net.fc[-1] else 2
                self.crossings[layer.name], inputs = HalfExchange(groups), inputs * groups
            outputs = net.outputs(layer)
            self._add_layer(layer.name, _weighted(layer, inputs, outputs, groups, widening))
            self.after[layer.name] = nn.Sequential(*_after(layer, net))
            places = net.last_map_size() ** 2 if layer is net.conv[-1] else 1
            inputs, inputs_at_width_1 = outputs * places, full.outputs(layer) * places

    def _add_layer(self, name: str, module: nn.Module) -> None:
        if hasattr(self, name):
            raise ValueError(f"no layer can be called {name!r}: the name is taken, by another layer or by torch")
        self.add_module(name, module)


def _architecture(
    recipe: str | Mapping[str, Any] | Architecture,
    classes: int | None,
    width: float | None,
    ablate: str | Sequence[str] | None,
) -> Architecture:
    if isinstance(recipe, str):
        net = architecture(recipe)
    else:
        net = recipe if isinstance(recipe, Architecture) else Architecture.of(recipe)
    net = ablated(net, ablate or ())
    if classes is not None and classes < 1:
        raise ValueError(f"classes is {classes}; it is 1 or more")
    if width is not None and not 0 < width <= MOST_WIDTH:
        raise ValueError(f"width is {width}; it is more than 0, at most {MOST_WIDTH}")
    return replace(net, classes=classes or net.classes, width=width or net.width)


def _weighted(layer: AnyLayer, inputs: int, outputs: int, groups: int, widening: float) -> nn.Module:
    """The layer's weights and biases, with their initial values; width 1 has `widening` times the inputs."""
    module: nn.Conv2d | nn.Linear
    if isinstance(layer, ConvLayer):
        module = nn.Conv2d(inputs, outputs, layer.kernel, layer.stride, layer.padding, groups=groups)
    elif groups == 1:
        module = nn.Linear(inputs, outputs)
    else:
        module = GroupedLinear(inputs, outputs, groups)
    if module.weight.is_meta:  # normal_ would load torch's compiler, which takes seconds
        return module
    he, std = math.sqrt(2 / module.weight[0].numel()), layer.weight_std
    nn.init.normal_(module.weight, std=he if isinstance(std, str) else std * math.sqrt(widening))
    assert module.bias is not None
    nn.init.constant_(module.bias, layer.bias)
    return module


def _after(layer: AnyLayer, net: Architecture) -> Iterator[nn.Module]:
    activation = nn.ReLU if net.activation == "relu" else nn.Tanh
    if isinstance(layer, FullLayer):
        if layer is not net.fc[-1]:
            yield from (activation(), PaperDropout(net.dropout))
        return
    for op in layer.then:
        if op == "activation":
            yield activation()
        elif op == "lrn":
            yield ChannelNorm(net.columns, net.lrn_size, net.lrn_k, net.lrn_alpha, net.lrn_beta)
        elif op == "spatial":
            yield MapNorm(net.spatial_size, net.spatial_alpha, net.spatial_beta)
        elif op == "pool":
            yield nn.MaxPool2d(net.pool_size, net.pool_stride)
        else:
            raise ValueError(f"{layer.name}: there is no operation {op!r}")
    if layer is net.conv[-1]:
        yield nn.Flatten()


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images are of {kind}; they are a tensor of torch.uint8, as stored: 0 to 255")
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, STORED_SIZE, STORED_SIZE):
        raise ValueError(f"images are of shape {tuple(images.shape)}; it is n x 3 x {STORED_SIZE} x {STORED_SIZE}")
