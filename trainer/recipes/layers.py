"""A layer as data."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from common.errors import UsageError
from common.spec import STORED_SIZE
from trainer.recipes.bounds import Range, check_ranges, shown, shown_name

Op = Literal["activation", "lrn", "spatial", "pool"]
Reads = Literal["image", "own", "both"]  # "own": the same column's half of the layer before; "both": all of it
FirstWeights = Annotated[float | Literal["he"], Range(ge=0)]

MOST_OUTPUTS = 2**16  # of a layer in each column, at width 1; more is likelier a typing error


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A convolution.

    name        letters, digits and _
    channels    outputs in each column, at width 1
    kernel      height and width of the filters, in pixels
    stride      pixels between applications of the filters
    padding     rows and columns of zeros on each side
    reads       "image": only the first layer; "own": the same column's half of the layer before; "both": all of it
    then        what follows, in order: activation, lrn (over channels), spatial (over a map), pool
    weight_std  standard deviation of the initial weights at width 1; "he": sqrt(2 / inputs of a unit) (He et al., 2015)
    bias        initial value of every bias
    """

    name: str
    channels: Annotated[int, Range(ge=1, le=MOST_OUTPUTS)]
    kernel: Annotated[int, Range(ge=1, le=STORED_SIZE)]
    stride: Annotated[int, Range(ge=1, le=STORED_SIZE)] = 1
    padding: Annotated[int, Range(ge=0, le=STORED_SIZE)] = 0
    reads: Reads = "own"
    then: tuple[Op, ...] = ("activation",)
    weight_std: FirstWeights = 0.01
    bias: Annotated[float, Range()] = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_ranges(self, f"{self.name}: ")
        if self.padding >= self.kernel:
            raise UsageError(f"{self.name}: padding is {self.padding}; it is less than the kernel")
        if self.reads == "image" and self.padding:
            raise UsageError(f"{self.name}: padding is {self.padding}; what reads the image has none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A fully connected layer. All but the last are followed by activation and dropout.

    name        letters, digits and _
    units       outputs in each column, at width 1; 0 in the last layer, which has one per class
    reads       "own" or "both", as of a convolution; the last layer reads both and lies whole in half 0
    weight_std  standard deviation of the initial weights, as of a convolution
    bias        initial value of every bias
    """

    name: str
    units: Annotated[int, Range(ge=0, le=MOST_OUTPUTS)] = 0
    reads: Reads = "both"
    weight_std: FirstWeights = 0.01
    bias: Annotated[float, Range()] = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_ranges(self, f"{self.name}: ")
        if self.reads == "image":
            raise UsageError(f"{self.name}: only the first convolution reads the image")


Layer = Conv | Linear


def _check_name(name: str) -> None:
    if shown_name(name) != name:
        raise UsageError(f"a layer is called {shown(name)}; a name is of letters, digits and _")


class InputShape(NamedTuple):
    """The first layer's input, in pixels.

    crop     side of an image's crop
    side     of the shrunk crop, zero-padded at the right and bottom to a multiple of `fold`
    fold     side of the squares folded into one pixel's channels
    shrink   side of the squares averaged into one pixel
    """

    crop: int
    side: int = 228
    fold: int = 4
    shrink: int = 1


class Norm(NamedTuple):
    """The constants of a normalisation; `alpha` multiplies the plain sum of squares."""

    over: Literal["channels", "maps"]
    size: int  # odd; of a side, over maps
    k: float
    alpha: float
    beta: float
