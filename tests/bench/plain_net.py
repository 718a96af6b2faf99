"""AlexNet of stock torch modules: the contender that a training step is measured beside."""

import torch
from torch import Tensor, nn

from trainer.recipes.recipe import Recipe


class TwoNorms(nn.Module):
    """Each half normalised by itself, as the paper's two GPUs do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.is_cuda else x.float()  # torch has no bfloat16 kind of it for a CPU
        return torch.cat([self.norm(half) for half in wide.chunk(2, dim=1)], dim=1).to(x.dtype)


def plain(recipe: Recipe) -> nn.Module:
    c1, c2, c3, c4, c5, units, *_ = (2 * recipe.outputs(layer) for layer in recipe.layers)
    return nn.Sequential(
        *(nn.Conv2d(3, c1, 11, stride=4), nn.ReLU(), TwoNorms(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c1, c2, 5, padding=2, groups=2), nn.ReLU(), TwoNorms(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(), nn.Conv2d(c3, c4, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(c4, c5, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(36 * c5, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Dropout()),
        nn.Linear(units, recipe.classes),
    )
