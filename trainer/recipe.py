"""Every number of a training run, as data: the network's shape, initial weights, the pixels, the update, the schedule.

`paper` is what the NIPS 2012 paper prints (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep
Convolutional Neural Networks). `source` is what the program behind the paper's numbers did
(computerhistory/AlexNet-Source-Code, layers/layers-145.cfg); where they differ, `source` is the one that is known to
start learning. `demo` is a narrow net of the same form for a few thousand pictures on a CPU.

Epochs are counted from 0. No torch is imported here, so that `--help` is fast.
"""

from dataclasses import dataclass, replace
from typing import Literal

INPUT_SIZE = 227  # height and width in pixels of what conv1 reads: (227 - 11) / 4 + 1 = 55
CONV1_STRIDE = 4
PADDED_SIZE = 228  # the same with a row and a column that are not read: a multiple of conv1's stride

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
FCS = ("fc6", "fc7", "fc8")
LAYERS = (*CONVS, *FCS)

Op = Literal["relu", "lrn", "spatial", "pool"]

_CHANNELS = (48, 128, 192, 192, 128)  # of each half
_FC_UNITS = 2048  # of each half
_CHANNEL_STEP = 4


@dataclass(frozen=True, slots=True)
class Phase:
    """What is in force from `first_epoch` until the next phase.

    rate         learning rate of the weights
    conv1_rate   of conv1's weights where they have their own; 0 freezes conv1, its bias too
    bias_rate    of the biases where they have their own; None: the same as their layer's weights
    sigma        standard deviation of the colour noise, in units of each component's own
    """

    first_epoch: int
    rate: float
    conv1_rate: float | None = None
    bias_rate: float | None = None
    sigma: float = 0.1


@dataclass(frozen=True, slots=True)
class Plateau:
    """Divide every rate by `factor` once the validation error has not fallen for `patience` epochs; `drops` times."""

    factor: float = 10.0
    drops: int = 3
    patience: int = 5


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train AlexNet.

    The network
      classes           outputs of fc8; the data set's, so `dataclasses.replace` it
      width             share of the original's channels and units in each half; 1 is AlexNet
      conv1_block, conv2_block, conv5_block     what follows those convolutions, in order; conv3 and conv4: ReLU alone
      lrn_k, lrn_alpha, lrn_beta                x / (k + alpha * sum of squares over lrn_size channels)^beta
      spatial_alpha, spatial_beta, spatial_size x / (1 + alpha * sum of squares over size x size of the same map)^beta
      weight_std        of N(0, std), for each of LAYERS; None: sqrt(2 / inputs of a unit) (He et al., 2015)
      bias_start        initial biases, for each of LAYERS
      dropout           share of fc6's and fc7's outputs masked in training; in test they are multiplied by 1 - dropout
    The pixels
      crop              height and width in pixels of a training crop, and of each test view
      train_scale, test_scale   factors on (pixel - mean image + noise), which are in 0..255 units otherwise
    Training
      batch_size, epochs
      momentum, weight_decay, decay_biases      v = momentum v - weight_decay lr w - lr g; w = w + v
      phases            fixed changes, first at epoch 0
      plateau           further division of the rates, driven by the validation error; None: there is none
    """

    name: str
    # the network
    classes: int = 1000
    width: float = 1.0
    conv1_block: tuple[Op, ...] = ("relu", "lrn", "pool")
    conv2_block: tuple[Op, ...] = ("relu", "lrn", "pool")
    conv5_block: tuple[Op, ...] = ("relu", "pool")
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    spatial_size: int = 5
    spatial_alpha: float = 1e-3 / 25
    spatial_beta: float = 0.75
    weight_std: tuple[float, ...] | None = (0.01,) * 8
    bias_start: tuple[float, ...] = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    dropout: float = 0.5
    # the pixels
    crop: int = 227
    train_scale: float = 1.0
    test_scale: float = 1.0
    # training
    batch_size: int = 128
    epochs: int = 90
    momentum: float = 0.9
    weight_decay: float = 0.0005
    decay_biases: bool = True
    phases: tuple[Phase, ...] = (Phase(0, 0.01),)
    plateau: Plateau | None = None

    def __post_init__(self) -> None:
        assert 0 < self.crop <= INPUT_SIZE, f"a crop of {self.crop} pixels does not fit conv1's {INPUT_SIZE}"
        assert self.phases[0].first_epoch == 0, "the first phase begins at epoch 0"
        assert len(self.bias_start) == len(self.weight_std or LAYERS) == len(LAYERS)

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Output channels of conv1 to conv5 in one half."""
        c1, c2, c3, c4, c5 = (_scaled(channels, self.width) for channels in _CHANNELS)
        return c1, c2, c3, c4, c5

    @property
    def fc_units(self) -> int:
        """Outputs of fc6, and of fc7, in one half."""
        return _scaled(_FC_UNITS, self.width)

    def phase(self, epoch: int) -> Phase:
        """The phase in force in `epoch`."""
        return [phase for phase in self.phases if phase.first_epoch <= epoch][-1]

    def stretched(self, epochs: int) -> "Recipe":
        """The same recipe over `epochs` epochs: phases begin, and patience ends, proportionately sooner or later."""
        share = epochs / self.epochs
        starts = {0: self.phases[0]}
        for phase in self.phases[1:]:
            starts[max(1, round(phase.first_epoch * share))] = phase  # of phases that now coincide, the last
        phases = tuple(replace(phase, first_epoch=start) for start, phase in starts.items() if start < max(epochs, 1))
        plateau = self.plateau and replace(self.plateau, patience=max(1, round(self.plateau.patience * share)))
        return replace(self, epochs=epochs, phases=phases, plateau=plateau)


def _scaled(count: int, width: float) -> int:
    return max(_CHANNEL_STEP, round(count * width / _CHANNEL_STEP) * _CHANNEL_STEP)


PAPER = Recipe(name="paper", plateau=Plateau())

SOURCE = Recipe(
    name="source",
    conv1_block=("lrn", "pool", "relu"),
    conv2_block=("relu", "lrn", "spatial", "pool"),
    lrn_alpha=1e-4 / 5,
    weight_std=(0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
    crop=224,
    train_scale=1 / 1.1,
    epochs=91,
    decay_biases=False,
    phases=(
        Phase(0, 0.01, bias_rate=0.02),
        Phase(25, 0.001, bias_rate=0.02),
        Phase(51, 0.0001, bias_rate=0.02),
        Phase(67, 0.0001, conv1_rate=1e-5, bias_rate=0.02, sigma=0.0),
        Phase(72, 0.0001, conv1_rate=0.0, bias_rate=0.02, sigma=0.0),
        Phase(79, 1e-5, conv1_rate=0.0, bias_rate=0.02, sigma=0.0),
    ),
)

DEMO = Recipe(
    name="demo",
    classes=10,
    width=0.25,
    conv1_block=("lrn", "pool", "relu"),
    conv2_block=("relu", "lrn", "pool"),
    lrn_alpha=1e-4 / 5,
    weight_std=None,
    bias_start=(0.0,) * 8,
    train_scale=1 / 64,
    test_scale=1 / 64,
    batch_size=32,
    epochs=12,
    decay_biases=False,
    phases=(Phase(0, 0.01), Phase(8, 0.003), Phase(10, 0.001)),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (SOURCE, PAPER, DEMO)}
