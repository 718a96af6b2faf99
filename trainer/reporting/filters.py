"""The first layer's filters, half 0's above half 1's (the paper's figure 3)."""

from dataclasses import dataclass

import numpy as np

from trainer.evaluation.trained import Trained
from trainer.reporting.drawing import Image
from trainer.training.board import filters_image

ZOOM = 6  # pixels of a file for each of a filter's


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    image: Image
    layer: str
    filters: int
    side: int
    columns: int
    checkpoint: str

    @property
    def enlarged(self) -> Image:
        return np.kron(self.image, np.ones((ZOOM, ZOOM, 1), np.uint8))


def filters_of(trained: Trained) -> Filters:
    recipe = trained.state.recipe
    name = recipe.conv[0].name
    weights = trained.weights[f"{name}.weight"].float().numpy()
    image = filters_image(weights, recipe.columns)
    return Filters(image, name, len(weights), weights.shape[-1], recipe.columns, trained.path.name)
