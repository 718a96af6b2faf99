"""The recipes that come with the program.

`paper` is what the NIPS 2012 paper prints (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep
Convolutional Neural Networks), `source` what the program behind it did (computerhistory/AlexNet-Source-Code,
layers/layers-145.cfg).
"""

from dataclasses import replace

from trainer.recipes.layers import Conv, Linear
from trainer.recipes.recipe import Phase, Plateau, Recipe

PAPER = Recipe(
    name="paper",
    conv=(
        Conv(name="conv1", channels=48, kernel=11, stride=4, reads="image", then=("activation", "lrn", "pool")),
        Conv(name="conv2", channels=128, kernel=5, padding=2, then=("activation", "lrn", "pool"), bias=1.0),
        Conv(name="conv3", channels=192, kernel=3, padding=1, reads="both"),
        Conv(name="conv4", channels=192, kernel=3, padding=1, bias=1.0),
        Conv(name="conv5", channels=128, kernel=3, padding=1, then=("activation", "pool"), bias=1.0),
    ),
    fc=(
        Linear(name="fc6", units=2048, bias=1.0),
        Linear(name="fc7", units=2048, bias=1.0),
        Linear(name="fc8"),
    ),
    plateau=Plateau(),
)

SOURCE = replace(
    PAPER.with_layer("conv1", then=("lrn", "pool", "activation"))
    .with_layer("conv2", then=("activation", "lrn", "spatial", "pool"))
    .with_layer("conv3", weight_std=0.03)
    .with_layer("conv4", weight_std=0.03)
    .with_layer("conv5", weight_std=0.03),
    name="source",
    lrn_alpha=1e-4 / 5,
    crop=224,
    train_scale=1 / 1.1,
    epochs=91,
    decay_biases=False,
    plateau=None,
    phase=(  # that program counts epochs from 1: "epoch 25" is after 24 whole ones
        Phase(0, 0.01, bias_rate=0.02),
        Phase(24, 0.001, bias_rate=0.02),
        Phase(50, 0.0001, bias_rate=0.02),
        Phase(66, 0.0001, bias_rate=0.02, layer_rates={"conv1": 1e-5}, sigma=0.0),
        Phase(71, 0.0001, bias_rate=0.02, layer_rates={"conv1": 0.0}, sigma=0.0),
        Phase(78, 1e-5, bias_rate=0.02, layer_rates={"conv1": 0.0}, sigma=0.0),
    ),
)

DEMO = replace(
    PAPER.with_layer("conv1", then=("lrn", "pool", "activation")).with_each_layer(weight_std="he", bias=0.0),
    name="demo",
    classes=10,
    width=0.25,
    lrn_alpha=1e-4 / 5,
    train_scale=1 / 64,
    test_scale=1 / 64,
    batch_size=32,
    epochs=12,
    decay_biases=False,
    plateau=None,
    phase=(Phase(0, 0.01), Phase(8, 0.003), Phase(10, 0.001)),
)

CIFAR10 = replace(
    DEMO.with_layer("conv1", kernel=5, stride=1),
    name="cifar10",
    input_size=28,
    crop=224,
    shrink=8,
    batch_size=64,
    epochs=5,
    phase=(Phase(0, 0.02), Phase(3, 0.005), Phase(4, 0.001)),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (SOURCE, PAPER, DEMO, CIFAR10)}
