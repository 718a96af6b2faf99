"""Which recipes make a network and a training: what must fit together, once each number is in its range."""

import re
from typing import TYPE_CHECKING

from common.errors import UsageError
from trainer.recipes.bounds import check_ranges, shown, shown_name
from trainer.recipes.layers import Linear

if TYPE_CHECKING:
    from trainer.recipes.recipe import Recipe

_MOST_LAYERS = _MOST_PHASES = _MOST_LETTERS = 100  # far beyond what anyone trains


def check_possible(recipe: "Recipe") -> None:
    """Raises UsageError for values that make no network, or no training."""
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
    recipe.map_sizes()  # says which map would be empty


def _check_layers(recipe: "Recipe") -> None:
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


def _check_phases(recipe: "Recipe") -> None:
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
