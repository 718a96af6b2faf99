"""Every number of the two recipes once more, as it is printed, so that none is changed by mistake: what each number
does is shown by the tests that `tests/test_recipes.py` lists.
"""

import pytest

from trainer.recipes.layers import Conv, Linear
from trainer.recipes.named import PAPER, SOURCE
from trainer.recipes.recipe import Phase, Plateau, Recipe

SHAPES = [  # name, outputs in each column, kernel, stride, padding, reads, bias
    ("conv1", 48, 11, 4, 0, "image", 0),
    ("conv2", 128, 5, 1, 2, "own", 1),
    ("conv3", 192, 3, 1, 1, "both", 0),
    ("conv4", 192, 3, 1, 1, "own", 1),
    ("conv5", 128, 3, 1, 1, "own", 1),
    ("fc6", 2048, None, None, None, "both", 1),
    ("fc7", 2048, None, None, None, "both", 1),
    ("fc8", 0, None, None, None, "both", 0),
]
FOLLOWED_BY = {
    "paper": ["activation lrn pool", "activation lrn pool", "activation", "activation", "activation pool"],
    "source": ["lrn pool activation", "activation lrn spatial pool", "activation", "activation", "activation pool"],
}
SPREADS = {
    "paper": [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01],
    "source": [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01],
}
OTHERS = {  # what the recipes differ in
    "paper": (1e-4, 227, 1.0, 90, True, Plateau(10.0, 3, 5, 0.0)),
    "source": (1e-4 / 5, 224, 1 / 1.1, 91, False, None),
}
PHASES = {
    "paper": (Phase(0, 0.01, None, {}, 0.1),),
    "source": (
        Phase(0, 0.01, 0.02, {}, 0.1),
        Phase(25, 0.001, 0.02, {}, 0.1),
        Phase(51, 0.0001, 0.02, {}, 0.1),
        Phase(67, 0.0001, 0.02, {"conv1": 0.00001}, 0.0),
        Phase(72, 0.0001, 0.02, {"conv1": 0.0}, 0.0),
        Phase(79, 0.00001, 0.02, {"conv1": 0.0}, 0.0),
    ),
}
BOTH = pytest.mark.parametrize("recipe", [PAPER, SOURCE], ids=["paper", "source"])


def shape(layer: Conv | Linear) -> tuple[object, ...]:
    if isinstance(layer, Linear):
        return layer.name, layer.units, None, None, None, layer.reads, layer.bias
    return layer.name, layer.channels, layer.kernel, layer.stride, layer.padding, layer.reads, layer.bias


@BOTH
def test_layers_are_those_that_are_printed(recipe: Recipe) -> None:
    assert [shape(layer) for layer in recipe.layers] == SHAPES
    assert [" ".join(conv.then) for conv in recipe.conv] == FOLLOWED_BY[recipe.name]
    assert [layer.weight_std for layer in recipe.layers] == SPREADS[recipe.name]


@BOTH
def test_all_other_numbers_are_those_that_are_printed(recipe: Recipe) -> None:
    lrn_alpha, crop, train_scale, epochs, decay_biases, plateau = OTHERS[recipe.name]
    assert recipe == Recipe(
        name=recipe.name,
        columns=2,
        classes=1000,
        width=1.0,
        activation="relu",
        input_size=227,
        pool_size=3,
        pool_stride=2,
        lrn_size=5,
        lrn_k=2.0,
        lrn_alpha=lrn_alpha,
        lrn_beta=0.75,
        spatial_size=5,
        spatial_alpha=1e-3 / 25,
        spatial_beta=0.75,
        dropout=0.5,
        exchange="same",
        crop=crop,
        shrink=1,
        train_scale=train_scale,
        test_scale=1.0,
        batch_size=128,
        epochs=epochs,
        momentum=0.9,
        weight_decay=0.0005,
        decay_biases=decay_biases,
        plateau=plateau,
        phase=PHASES[recipe.name],
        conv=recipe.conv,
        fc=recipe.fc,
    )
