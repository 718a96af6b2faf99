"""Which recipes make a network and a training: each value's range, and what must fit together."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.errors import UsageError
from common.spec import STORED_SIZE
from trainer.layers import Linear

if TYPE_CHECKING:
    from trainer.recipe import Recipe

_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("columns", lambda x: x in (1, 2), "1 or 2"),
    ("classes", lambda x: x >= 1, "1 or more"),
    ("width", lambda x: 0 < x <= 16, "more than 0, at most 16"),
    ("pool_size", lambda x: x >= 1, "1 or more"),
    ("pool_stride", lambda x: x >= 1, "1 or more"),
    ("lrn_size", lambda x: x >= 1 and x % 2 == 1, "odd"),
    ("lrn_k", lambda x: 0 < x < float("inf"), "more than 0"),
    ("lrn_alpha", lambda x: 0 <= x < float("inf"), "0 or more"),
    ("lrn_beta", lambda x: 0 <= x < float("inf"), "0 or more"),
    ("spatial_size", lambda x: x >= 1 and x % 2 == 1, "odd"),
    ("spatial_alpha", lambda x: 0 <= x < float("inf"), "0 or more"),
    ("spatial_beta", lambda x: 0 <= x < float("inf"), "0 or more"),
    ("dropout", lambda x: 0 <= x < 1, "0 or more, less than 1"),
    ("crop", lambda x: 1 <= x <= STORED_SIZE, f"1 to {STORED_SIZE} pixels"),
    ("shrink", lambda x: 1 <= x <= STORED_SIZE // 2, f"1 to {STORED_SIZE // 2}"),
    ("train_scale", lambda x: 0 < x < float("inf"), "more than 0"),
    ("test_scale", lambda x: 0 < x < float("inf"), "more than 0"),
    ("batch_size", lambda x: x >= 1, "1 or more"),
    ("epochs", lambda x: x >= 1, "1 or more"),
    ("momentum", lambda x: 0 <= x < 1, "0 or more, less than 1"),
    ("weight_decay", lambda x: 0 <= x < 1, "0 or more, less than 1"),
)


def check_possible(recipe: "Recipe") -> None:
    """Raises UsageError for values that make no network, or no training."""
    for name, is_possible, values in _RANGES:
        if not is_possible(getattr(recipe, name)):
            raise UsageError(f"{name} is {getattr(recipe, name)}; it is {values}")
    if recipe.crop > recipe.input_size * recipe.shrink or recipe.crop % recipe.shrink:
        raise UsageError(
            f"crop is {recipe.crop}; it is a multiple of shrink, {recipe.shrink}, and then at most input_size,"
            f" {recipe.input_size}"
        )
    _check_layers(recipe)
    _check_phases(recipe)
    first = recipe.conv[0]
    if recipe.input_size < first.kernel or (recipe.input_size - first.kernel) % first.stride:
        raise UsageError(
            f"input_size is {recipe.input_size}; it is {first.name}'s kernel and a multiple of its stride:"
            f" {first.kernel} + n x {first.stride}"
        )
    recipe.map_sizes()  # says which map would be empty


def _check_layers(recipe: "Recipe") -> None:
    names = recipe.layer_names
    if not recipe.conv or not recipe.fc or len(set(names)) < len(names):
        raise UsageError(f"layers are {', '.join(names)}: at least one conv and one fc, each with a name of its own")
    for layer in recipe.layers:
        if not layer.name.isidentifier():
            raise UsageError(f"a layer is called {layer.name!r}; a name is of letters, digits and _")
        if (layer.reads == "image") != (layer is recipe.conv[0]):
            raise UsageError(f"{layer.name}: reads is {layer.reads!r}; the first layer reads the image, and it alone")
        if isinstance(layer, Linear) and (layer.units == 0) != (layer is recipe.fc[-1]):
            raise UsageError(f"{layer.name}: units is {layer.units}; it is 0 in the last layer, and there alone")
    if recipe.fc[-1].reads != "both":
        raise UsageError(f"{names[-1]}: reads is {recipe.fc[-1].reads!r}; the last layer reads both halves")


def _check_phases(recipe: "Recipe") -> None:
    starts = [phase.first_epoch for phase in recipe.phase]
    if not starts or starts[0] != 0 or starts != sorted(set(starts)):
        raise UsageError(f"phases begin at epochs {starts}; the first is 0, and they rise")
    if recipe.phase[0].rate == 0:
        raise UsageError("the first phase's rate is 0: nothing would be learnt")
    for phase in recipe.phase:
        for name in phase.layer_rates.keys() - set(recipe.layer_names):
            raise UsageError(f"the phase of epoch {phase.first_epoch} has a rate for {name}, which is no layer")
