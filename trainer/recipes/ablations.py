"""The paper's comparisons, as changes of a recipe.

Their errors are in its text and in the 2012 program's logs (computerhistory/AlexNet-Source-Code).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from common.errors import UsageError
from trainer.recipes.layers import Conv
from trainer.recipes.recipe import Recipe

_NORMS = ("lrn", "spatial")


def _tanh(recipe: Recipe) -> Recipe:
    return replace(recipe, activation="tanh")


def _no_norm(recipe: Recipe) -> Recipe:
    conv = tuple(replace(layer, then=tuple(op for op in layer.then if op not in _NORMS)) for layer in recipe.conv)
    return replace(recipe, conv=conv)


def _pool_2x2(recipe: Recipe) -> Recipe:
    return replace(recipe, pool_size=2, pool_stride=2)


def _one_column(recipe: Recipe) -> Recipe:
    """Conv5 and the fc layers keep the width of two, as in the footnote to section 3.2."""
    last, hidden = recipe.conv[-1], recipe.fc[:-1]
    conv = (*recipe.conv[:-1], replace(last, channels=2 * last.channels))
    fc = (*(replace(layer, units=2 * layer.units) for layer in hidden), recipe.fc[-1])
    return replace(recipe, columns=1, conv=conv, fc=fc)


def _separate_halves(recipe: Recipe) -> Recipe:
    conv = tuple(replace(layer, reads="own") if layer.reads == "both" else layer for layer in recipe.conv)
    return replace(recipe, conv=conv)


def _no_conv4(recipe: Recipe) -> Recipe:
    if "conv4" not in recipe.layer_names:
        raise UsageError(f"recipe {recipe.name} has no conv4 to leave out")
    return replace(recipe, conv=tuple(layer for layer in recipe.conv if layer.name != "conv4"))


def _conv6(recipe: Recipe) -> Recipe:
    """Over the last pooling, as in section 6.1 of the paper."""
    last = recipe.conv[-1]
    sixth = Conv(name="conv6", channels=last.channels, kernel=3, padding=1, weight_std=last.weight_std, bias=last.bias)
    return replace(recipe, conv=(*recipe.conv, sixth))


def _no_noise(recipe: Recipe) -> Recipe:
    return replace(recipe, phase=tuple(replace(phase, sigma=0.0) for phase in recipe.phase))


def _no_dropout(recipe: Recipe) -> Recipe:
    return replace(recipe, dropout=0.0)


def _half_exchange(recipe: Recipe) -> Recipe:
    return replace(recipe, exchange="float16")


ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "tanh": _tanh,
    "no-norm": _no_norm,
    "pool-2x2": _pool_2x2,
    "one-column": _one_column,
    "separate-halves": _separate_halves,
    "no-conv4": _no_conv4,
    "conv6": _conv6,
    "no-noise": _no_noise,
    "no-dropout": _no_dropout,
    "half-exchange": _half_exchange,
}


def ablated(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with each named change made, in this order. Raises UsageError."""
    for name in names:
        recipe = replace(ABLATIONS[name](recipe), name=f"{recipe.name}+{name}")
    return recipe
