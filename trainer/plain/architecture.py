"""A network as data: the part of a recipe that decides what a trained network answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

STORED_SIZE = 256  # height and width of stored images, in pixels
FEWEST = 4  # widths are rounded to a multiple of it

_OF_TRAINING = {
    "pixels", "train_scale", "batch_size", "epochs", "momentum", "weight_decay", "decay_biases", "plateau", "phase",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvLayer:
    """A convolution and the operations after it.

    channels    outputs in each column, at width 1
    reads       "image"; "own": the same column's half of the layer before; "both": all of it
    then        in order: activation, lrn (over channels), spatial (over a map), pool
    weight_std  of the initial weights at width 1; "he": sqrt(2 / inputs of a unit)
    """

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    reads: str = "own"
    then: tuple[str, ...] = ("activation",)
    weight_std: float | str = 0.01
    bias: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLayer:
    """A fully connected layer; `units` as the channels of a convolution, 0 in the last layer."""

    name: str
    units: int = 0
    reads: str = "both"
    weight_std: float | str = 0.01
    bias: float = 0.0


AnyLayer = ConvLayer | FullLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The fields of a recipe that a network is built from, with the recipe's names and meanings."""

    name: str
    columns: int = 2
    classes: int = 1000
    width: float = 1.0
    activation: str = "relu"
    input_size: int = 227
    pool_size: int = 3
    pool_stride: int = 2
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    spatial_size: int = 5
    spatial_alpha: float = 1e-3 / 25
    spatial_beta: float = 0.75
    dropout: float = 0.5
    exchange: str = "same"
    crop: int = 227
    shrink: int = 1
    test_scale: float = 1.0
    conv: tuple[ConvLayer, ...]
    fc: tuple[FullLayer, ...]

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "Architecture":
        """The network of a whole recipe, as checkpoints hold it. Raises ValueError for an unknown or missing field."""
        values = {name: value for name, value in recipe.items() if name not in _OF_TRAINING}
        try:
            conv = tuple(ConvLayer(**{**layer, "then": tuple(layer["then"])}) for layer in values["conv"])
            return cls(**{**values, "conv": conv, "fc": tuple(FullLayer(**layer) for layer in values["fc"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the recipe is of another version of this program: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `of`."""
        return asdict(self)

    @property
    def layers(self) -> tuple[AnyLayer, ...]:
        return (*self.conv, *self.fc)

    def outputs(self, layer: AnyLayer) -> int:
        """Channels or units of all columns, at this width."""
        if layer is self.fc[-1]:
            return self.classes
        count = layer.channels if isinstance(layer, ConvLayer) else layer.units
        return max(FEWEST, round(count * self.width / FEWEST) * FEWEST) * self.columns

    def last_map_size(self) -> int:
        """Height and width of the last convolution's maps, after pooling. Raises ValueError if nothing is left."""
        size = self.input_size
        for conv in self.conv:
            size = (size + 2 * conv.padding - conv.kernel) // conv.stride + 1
            for _ in range(conv.then.count("pool")):
                size = (size - self.pool_size) // self.pool_stride + 1
            if size < 1:
                raise ValueError(f"recipe {self.name}: no pixel is left after {conv.name}")
        return size
