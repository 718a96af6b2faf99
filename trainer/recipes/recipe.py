"""Every number of a run, as data. No torch is imported here, so that `--help` is fast."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from common.errors import UsageError
from common.spec import STORED_SIZE
from trainer.recipes.bounds import Range, check, check_ranges, shown, shown_name
from trainer.recipes.layers import Conv, InputShape, Layer, Linear

AnyLayer = TypeVar("AnyLayer", Conv, Linear)

_RATE = Range(ge=0)
Rate = Annotated[float, _RATE]

_STEP = 4  # widths are rounded to so many channels or units of a half

# Far beyond what anyone trains: a typing error is refused by name, instead of filling memory.
_MOST_EPOCHS = 100_000
MOST_DROPS = 100
_MOST_LAYERS = _MOST_PHASES = _MOST_LETTERS = 100
_MOST_NEIGHBOURS = 2 * STORED_SIZE - 1


@dataclass(frozen=True, slots=True)
class Phase:
    """Rates and noise from an epoch until the next phase.

    first_epoch  epoch, counted from 0, in which the phase begins
    rate         learning rate of the weights
    bias_rate    learning rate of the biases; None: that of their layer's weights
    layer_rates  learning rates of single layers' weights, by name; 0 freezes the layer, its biases too
    sigma        standard deviation of the colour noise, in units of each component's own; 0: no noise
    """

    first_epoch: Annotated[int, Range(ge=0, le=_MOST_EPOCHS)]
    rate: Rate
    bias_rate: Annotated[float | None, _RATE] = None
    layer_rates: Mapping[str, Rate] = field(default_factory=dict)
    sigma: Annotated[float, Range(ge=0, le=10)] = 0.1

    def __post_init__(self) -> None:
        where = f"phase of epoch {self.first_epoch}: "
        check_ranges(self, where)
        for layer, rate in self.layer_rates.items():
            check(f"{where}layer_rates.{shown_name(layer)}", rate, _RATE)

    def times(self, factor: float) -> "Phase":
        bias_rate = None if self.bias_rate is None else self.bias_rate * factor
        layer_rates = {layer: rate * factor for layer, rate in self.layer_rates.items()}
        return replace(self, rate=self.rate * factor, bias_rate=bias_rate, layer_rates=layer_rates)


@dataclass(frozen=True, slots=True)
class Plateau:
    """Division of the rates when the validation error stalls.

    factor     divisor of every rate
    drops      divisions at most
    patience   epochs without a lower error before a division
    threshold  share by which an error must be below the lowest so far to count as lower
    """

    factor: Annotated[float, Range(gt=1, le=1000)] = 10.0
    drops: Annotated[int, Range(ge=0, le=MOST_DROPS)] = 3
    patience: Annotated[int, Range(ge=1, le=_MOST_EPOCHS)] = 5
    threshold: Annotated[float, Range(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, "plateau.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train AlexNet. Raises UsageError for values that make no network, or cannot be trained.

    name           name of the recipe
    columns        2: the two halves; 1: one column, on one device
    classes        outputs of the last layer; the dataset's number takes its place
    width          share of the layers' channels and units; 1 is AlexNet
    activation     "relu" or "tanh", after the convolutions and every fc layer but the last
    input_size     height and width in pixels of what the first layer reads
    pool_size      height and width in pixels of a max-pooling window
    pool_stride    pixels between pooling windows
    lrn_size       channels summed over in lrn: x / (lrn_k + lrn_alpha * sum of squares)^lrn_beta
    lrn_k          k of lrn
    lrn_alpha      alpha of lrn
    lrn_beta       beta of lrn
    spatial_size   height and width summed over in spatial: x / (1 + spatial_alpha * sum of squares)^spatial_beta
    spatial_alpha  alpha of spatial
    spatial_beta   beta of spatial
    dropout        share of the fc layers' outputs masked in training; in test they are multiplied by 1 - dropout
    exchange       what crosses between the halves: "same" as is computed with, or "float16"
    crop           height and width in pixels of a training crop, and of each test view
    shrink         side in pixels of the squares whose mean the network reads; 1: every pixel
    pixels         "uint8": training noise is rounded, clipped to 0..255; "float32": exact, four times the memory
    train_scale    factor on (pixel - mean image + noise), in 0..255 units; without noise test_scale takes its place
    test_scale     factor on (pixel - mean image), in 0..255 units
    batch_size     images per step
    epochs         passes over the training set
    momentum       v = momentum * v - weight_decay * lr * w - lr * g; w = w + v
    weight_decay   share of the weights that the update above takes off, per unit of lr
    decay_biases   apply weight_decay to biases too
    plateau        further division of the rates when the validation error stalls; None: there is none
    phase          fixed changes of rates and noise, the first at epoch 0
    conv           convolutions, in order
    fc             fully connected layers, in order; the last gives the classes
    """

    name: str
    # the network
    columns: Literal[1, 2] = 2
    classes: Annotated[int, Range(ge=1, le=1_000_000)] = 1000
    width: Annotated[float, Range(gt=0, le=16)] = 1.0
    activation: Literal["relu", "tanh"] = "relu"
    input_size: Annotated[int, Range(ge=1, le=2 * STORED_SIZE)] = 227
    pool_size: Annotated[int, Range(ge=1, le=STORED_SIZE)] = 3
    pool_stride: Annotated[int, Range(ge=1, le=STORED_SIZE)] = 2
    lrn_size: Annotated[int, Range(ge=1, le=_MOST_NEIGHBOURS, odd=True)] = 5
    lrn_k: Annotated[float, Range(gt=0)] = 2.0
    lrn_alpha: Annotated[float, Range(ge=0)] = 1e-4
    lrn_beta: Annotated[float, Range(ge=0)] = 0.75
    spatial_size: Annotated[int, Range(ge=1, le=_MOST_NEIGHBOURS, odd=True)] = 5
    spatial_alpha: Annotated[float, Range(ge=0)] = 1e-3 / 25
    spatial_beta: Annotated[float, Range(ge=0)] = 0.75
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.5
    exchange: Literal["same", "float16"] = "same"
    # the pixels
    crop: Annotated[int, Range(ge=1, le=STORED_SIZE)] = 227
    shrink: Annotated[int, Range(ge=1, le=STORED_SIZE // 2)] = 1
    pixels: Literal["uint8", "float32"] = "uint8"
    train_scale: Annotated[float, Range(gt=0)] = 1.0
    test_scale: Annotated[float, Range(gt=0)] = 1.0
    # training
    batch_size: Annotated[int, Range(ge=1, le=2**14)] = 128
    epochs: Annotated[int, Range(ge=1, le=_MOST_EPOCHS)] = 90
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Range(ge=0, lt=1)] = 0.0005
    decay_biases: bool = True
    plateau: Plateau | None = None
    phase: tuple[Phase, ...] = (Phase(0, 0.01),)
    conv: tuple[Conv, ...]
    fc: tuple[Linear, ...]

    def __post_init__(self) -> None:
        _check_possible(self)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (*self.conv, *self.fc)

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def input_shape(self) -> InputShape:
        fold = self.conv[0].stride
        return InputShape(self.crop, -(-self.input_size // fold) * fold, fold, self.shrink)

    def outputs(self, layer: Layer) -> int:
        """Channels or units of a layer in each column, at this width."""
        if layer is self.fc[-1]:
            return self.classes
        count = layer.channels if isinstance(layer, Conv) else layer.units
        return max(_STEP, round(count * self.width / _STEP) * _STEP)

    def map_sizes(self) -> list[int]:
        """Height and width of each convolution's maps after its pooling. Raises UsageError."""
        sizes, size = [], self.input_size
        for conv in self.conv:
            size = _applied(conv.name, size + 2 * conv.padding, conv.kernel, conv.stride)
            for _ in range(conv.then.count("pool")):
                size = _applied(f"pooling after {conv.name}", size, self.pool_size, self.pool_stride)
            sizes.append(size)
        return sizes

    def current_phase(self, epoch: int) -> Phase:
        return [phase for phase in self.phase if phase.first_epoch <= epoch][-1]

    def with_each_layer(self, **changes: Any) -> "Recipe":
        conv = tuple(replace(layer, **changes) for layer in self.conv)
        return replace(self, conv=conv, fc=tuple(replace(layer, **changes) for layer in self.fc))

    def with_layer(self, name: str, **changes: Any) -> "Recipe":
        def changed(layer: AnyLayer) -> AnyLayer:
            return replace(layer, **changes) if layer.name == name else layer

        return replace(self, conv=tuple(map(changed, self.conv)), fc=tuple(map(changed, self.fc)))

    def times(self, factor: float) -> "Recipe":
        return self if factor == 1 else replace(self, phase=tuple(phase.times(factor) for phase in self.phase))

    def stretched(self, epochs: int) -> "Recipe":
        """The same over `epochs` epochs, phases and patience in proportion."""
        share = epochs / self.epochs
        starts = {0: self.phase[0]}
        for phase in self.phase[1:]:
            starts[max(1, round(phase.first_epoch * share))] = phase  # of phases that now coincide, the last
        phases = tuple(replace(phase, first_epoch=start) for start, phase in starts.items() if start < max(epochs, 1))
        plateau = self.plateau and replace(self.plateau, patience=max(1, round(self.plateau.patience * share)))
        return replace(self, epochs=epochs, phase=phases, plateau=plateau)


def _applied(what: str, size: int, kernel: int, stride: int) -> int:
    if size < kernel:
        raise UsageError(f"{what} is {kernel} x {kernel} pixels, but reads maps of {size} x {size}: they are too small")
    return (size - kernel) // stride + 1


def _check_possible(recipe: Recipe) -> None:
    check_ranges(recipe)
    if not re.fullmatch(r"[\w+-][\w.+-]*", recipe.name, re.ASCII) or len(recipe.name) > _MOST_LETTERS:
        raise UsageError(f"name is {shown(recipe.name)}; a folder is called so: it is of letters, digits and . _ + -")
    if recipe.crop > recipe.input_size * recipe.shrink or recipe.crop % recipe.shrink:
        raise UsageError(
            f"crop is {recipe.crop}; it is a multiple of shrink, {recipe.shrink}, and then at most input_size,"
            f" {recipe.input_size}"
        )
    _check_layers(recipe)
    _check_phases(recipe)
    first = recipe.conv[0]
    if (recipe.input_size - first.kernel) % first.stride:
        raise UsageError(
            f"input_size is {recipe.input_size}; it is {first.name}'s kernel and a multiple of its stride:"
            f" {first.kernel} + n x {first.stride}"
        )
    recipe.map_sizes()  # raises if a map would be empty


def _check_layers(recipe: Recipe) -> None:
    names = recipe.layer_names
    if len(names) > _MOST_LAYERS:
        raise UsageError(f"there are {len(names)} layers; {_MOST_LAYERS} at most")
    if not recipe.conv or not recipe.fc or len(set(names)) < len(names):
        raise UsageError(f"layers are {', '.join(names)}: at least one conv and one fc, each with a name of its own")
    for layer in recipe.layers:
        if (layer.reads == "image") != (layer is recipe.conv[0]):
            raise UsageError(f"{layer.name}: reads is {layer.reads!r}; the first layer reads the image, and it alone")
        if isinstance(layer, Linear) and (layer.units == 0) != (layer is recipe.fc[-1]):
            raise UsageError(f"{layer.name}: units is {layer.units}; it is 0 in the last layer, and there alone")
    if recipe.fc[-1].reads != "both":
        raise UsageError(f"{names[-1]}: reads is {recipe.fc[-1].reads!r}; the last layer reads both halves")


def _check_phases(recipe: Recipe) -> None:
    starts = [phase.first_epoch for phase in recipe.phase]
    if len(starts) > _MOST_PHASES:
        raise UsageError(f"there are {len(starts)} phases; {_MOST_PHASES} at most")
    if not starts or starts[0] != 0 or starts != sorted(set(starts)):
        raise UsageError(f"phases begin at epochs {starts}; the first is 0, and they rise")
    if recipe.phase[0].rate == 0:
        raise UsageError("the first phase's rate is 0: nothing would be learnt")
    for phase in recipe.phase:
        for name in phase.layer_rates.keys() - set(recipe.layer_names):
            raise UsageError(
                f"the phase of epoch {phase.first_epoch} has a rate for {shown_name(name)}, which is no layer"
            )
