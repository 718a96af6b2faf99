"""Colour components of a dataset's training images, and one image under many augmentations."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.client.client import LoaderClient
from common.spec import StreamSpec
from trainer.recipes.recipe import Recipe
from trainer.reporting.drawing import Image
from trainer.reporting.pictures import halved

IMAGES = 256  # that components are computed of
AUGMENTATIONS = 20
STEPS = (-2, -1, 0, 1, 2)  # of a swatch from the mean colour, in standard deviations


@dataclass(frozen=True, slots=True)
class Component:
    """A principal component of the colours: its standard deviation in levels, and its swatches, `#rrggbb`."""

    deviation: float
    direction: tuple[float, float, float]
    swatches: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """`components` falling, of `images`; `strip` the image of record 0 in the first epochs."""

    components: list[Component]
    images: int
    strip: list[Image]
    crop: int
    sigma: float


def training_images(client: LoaderClient, recipe: Recipe, seed: int) -> TrainingImages:
    components, images = _components(client)
    sigma = recipe.current_phase(0).sigma
    spec = StreamSpec("train", seed, crop=recipe.crop, sigma=sigma, shuffle=False)
    stream = client.stream(spec, 1)
    strip = [
        halved(batch.images[0])
        for epoch in range(AUGMENTATIONS)
        for batch in stream.batches([epoch], end=1)  # position 0 is record 0
    ]
    stream.close()
    return TrainingImages(components, images, strip, recipe.crop, sigma)


def _components(client: LoaderClient) -> tuple[list[Component], int]:
    stream = client.stream(StreamSpec("train", view="full"), 32)
    images, total, products = 0, np.zeros(3), np.zeros((3, 3))
    for batch in stream.batches([0], end=IMAGES, lend=True):
        pixels = batch.images.reshape(-1, 3).astype(np.float64)
        images, total, products = images + len(batch), total + pixels.sum(axis=0), products + pixels.T @ pixels
    stream.close()
    count = images * np.prod(stream.spec.image_shape[:2])
    mean = total / count
    return principal(mean, products / count - np.outer(mean, mean)), images


def principal(mean: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64]) -> list[Component]:
    """Eigenvectors of an RGB covariance, largest first; the largest entry of each is positive."""
    values, vectors = np.linalg.eigh(covariance)
    found = []
    for value, vector in zip(values[::-1], vectors.T[::-1], strict=True):
        direction = vector * np.copysign(1.0, vector[np.abs(vector).argmax()])
        deviation = float(np.sqrt(max(value, 0.0)))
        swatches = [_hex(mean + step * deviation * direction) for step in STEPS]
        red, green, blue = direction.tolist()
        found.append(Component(deviation, (red, green, blue), swatches))
    return found


def _hex(rgb: npt.NDArray[np.float64]) -> str:
    return "#" + "".join(f"{level:02x}" for level in np.rint(rgb.clip(0, 255)).astype(int).tolist())
