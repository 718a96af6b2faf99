"""Several networks that answer together: softmax probabilities averaged over views, then over networks.

The paper's ten views are corners, centre, and the mirror images of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.spec import STORED_SIZE
from trainer.feeding.pixel_transform import PixelTransform
from trainer.network.net import Net, Pixels
from trainer.recipes.recipe import Recipe

MOST = 10


@dataclass(frozen=True, slots=True)
class View:
    top: int
    left: int
    mirrored: bool = False

    def of(self, images_nhwc: Tensor, size: int) -> Tensor:
        """n x size x size x 3 from n x 256 x 256 x 3; a view of the same memory unless mirrored."""
        cut = images_nhwc[:, self.top : self.top + size, self.left : self.left + size]
        return cut.flip(2) if self.mirrored else cut


def views(size: int) -> tuple[View, ...]:
    """The ten views of `size` pixels, the centre first."""
    far, middle = STORED_SIZE - size, (STORED_SIZE - size) // 2
    corners = [(middle, middle), (0, 0), (0, far), (far, 0), (far, far)]
    return tuple(View(top, left, mirrored) for mirrored in (False, True) for top, left in corners)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A network and the transforms to its pixels."""

    name: str
    net: Net
    recipe: Recipe
    transforms: Mapping[torch.device, PixelTransform]

    def pixels(self, images: Mapping[torch.device, Tensor], view: View) -> Pixels:
        read = {device: of(view.of(images[device], self.recipe.crop)) for device, of in self.transforms.items()}
        return tuple(read[device] for device in self.net.input_devices)

    def probabilities(self, images: Mapping[torch.device, Tensor], view_counts: Sequence[int]) -> dict[int, Tensor]:
        """n x classes by number of views, in memory of its own. One forward per view: all at once would not fit."""
        averages: dict[int, Tensor] = {}
        total: Tensor | None = None
        for seen, view in enumerate(views(self.recipe.crop)[: max(view_counts)], 1):
            probabilities = self.net.predict(self.pixels(images, view))  # the next forward may overwrite them
            total = probabilities.clone() if total is None else total.add_(probabilities)
            if seen in view_counts:
                averages[seen] = total / seen
        return averages


def mixed(of_members: Sequence[Mapping[int, Tensor]], weights: Sequence[float]) -> dict[int, Tensor]:
    """The members' weighted average, by number of views."""
    shares = [weight / sum(weights) for weight in weights]
    return {
        count: torch.stack([of[count] * share for of, share in zip(of_members, shares, strict=True)]).sum(dim=0)
        for count in of_members[0]
    }
