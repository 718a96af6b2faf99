"""The recipes by name and the paper's comparisons, as networks.

`trainer/recipes` holds them with all that training needs; a test keeps both equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from .architecture import Architecture, ConvLayer, FullLayer

_NORMS = ("lrn", "spatial")

PAPER = Architecture(
    name="paper",
    conv=(
        ConvLayer(name="conv1", channels=48, kernel=11, stride=4, reads="image", then=("activation", "lrn", "pool")),
        ConvLayer(name="conv2", channels=128, kernel=5, padding=2, then=("activation", "lrn", "pool"), bias=1.0),
        ConvLayer(name="conv3", channels=192, kernel=3, padding=1, reads="both"),
        ConvLayer(name="conv4", channels=192, kernel=3, padding=1, bias=1.0),
        ConvLayer(name="conv5", channels=128, kernel=3, padding=1, then=("activation", "pool"), bias=1.0),
    ),
    fc=(
        FullLayer(name="fc6", units=2048, bias=1.0),
        FullLayer(name="fc7", units=2048, bias=1.0),
        FullLayer(name="fc8"),
    ),
)
_CONV1, _CONV2, *_LAST = PAPER.conv
_POOL_FIRST = replace(_CONV1, then=("lrn", "pool", "activation"))

SOURCE = replace(
    PAPER,
    name="source",
    lrn_alpha=1e-4 / 5,
    crop=224,
    conv=(
        _POOL_FIRST,
        replace(_CONV2, then=("activation", "lrn", "spatial", "pool")),
        *(replace(layer, weight_std=0.03) for layer in _LAST),
    ),
)

DEMO = replace(
    PAPER,
    name="demo",
    classes=10,
    width=0.25,
    lrn_alpha=1e-4 / 5,
    test_scale=1 / 64,
    conv=tuple(replace(layer, weight_std="he", bias=0.0) for layer in (_POOL_FIRST, _CONV2, *_LAST)),
    fc=tuple(replace(layer, weight_std="he", bias=0.0) for layer in PAPER.fc),
)

CIFAR10 = replace(
    DEMO,
    name="cifar10",
    input_size=28,
    crop=224,
    shrink=8,
    conv=(replace(DEMO.conv[0], kernel=5, stride=1), *DEMO.conv[1:]),
)

PUBLISHED = {each.name: each for each in (SOURCE, PAPER, DEMO, CIFAR10)}


def _no_norm(net: Architecture) -> Architecture:
    conv = (replace(layer, then=tuple(op for op in layer.then if op not in _NORMS)) for layer in net.conv)
    return replace(net, conv=tuple(conv))


def _one_column(net: Architecture) -> Architecture:
    last, hidden = net.conv[-1], net.fc[:-1]
    conv = (*net.conv[:-1], replace(last, channels=2 * last.channels))
    return replace(net, columns=1, conv=conv, fc=(*(replace(fc, units=2 * fc.units) for fc in hidden), net.fc[-1]))


def _separate_halves(net: Architecture) -> Architecture:
    conv = (replace(layer, reads="own") if layer.reads == "both" else layer for layer in net.conv)
    return replace(net, conv=tuple(conv))


def _no_conv4(net: Architecture) -> Architecture:
    conv = tuple(layer for layer in net.conv if layer.name != "conv4")
    if len(conv) == len(net.conv):
        raise ValueError(f"recipe {net.name} has no conv4 to leave out")
    return replace(net, conv=conv)


def _conv6(net: Architecture) -> Architecture:
    last = net.conv[-1]
    sixth = ConvLayer(
        name="conv6", channels=last.channels, kernel=3, padding=1, weight_std=last.weight_std, bias=last.bias
    )
    return replace(net, conv=(*net.conv, sixth))


ABLATIONS: dict[str, Callable[[Architecture], Architecture]] = {
    "tanh": lambda net: replace(net, activation="tanh"),
    "no-norm": _no_norm,
    "pool-2x2": lambda net: replace(net, pool_size=2, pool_stride=2),
    "one-column": _one_column,
    "separate-halves": _separate_halves,
    "no-conv4": _no_conv4,
    "conv6": _conv6,
    "no-noise": lambda net: net,
    "no-dropout": lambda net: replace(net, dropout=0.0),
    "half-exchange": lambda net: replace(net, exchange="float16"),
}


def architecture(recipe: str, ablate: str | Sequence[str] = ()) -> Architecture:
    """A recipe by name, changed as `ablated` does. Raises ValueError for an unknown name."""
    if recipe not in PUBLISHED:
        raise ValueError(f"there is no recipe {recipe!r}; there are {', '.join(PUBLISHED)}")
    return ablated(PUBLISHED[recipe], ablate)


def ablated(net: Architecture, names: str | Sequence[str]) -> Architecture:
    """The network with each comparison of the paper made, in this order. Raises ValueError for an unknown name."""
    for name in (names,) if isinstance(names, str) else names:
        if name not in ABLATIONS:
            raise ValueError(f"there is no ablation {name!r}; there are {', '.join(ABLATIONS)}")
        net = replace(ABLATIONS[name](net), name=f"{net.name}+{name}")
    return net
