"""The built-in data set: drawn pictures of ten classes that only shape and texture tell apart.

Place, size, rotation, stretch, line widths, both colours, lighting, background and noise are drawn for each picture,
whatever its class, so that neither a colour histogram nor a linear model of the pixels gets far.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from loader import jpeg
from loader.packing.shapes import SHAPES, Plane

_QUALITY = 92
_SIDES_PX = (256, 321)  # height and width are drawn from this range
_SPLIT_KEYS = {"train": 0, "val": 1}


class DemoSource:
    """A Source (see loader/packing/sources.py) of `count` drawn pictures: item i is of class i modulo 10.

    A picture is a function of (split, seed, item) alone: split and seed are the key of numpy's Philox, the item is the
    upper half of its counter, so no two pictures share a random number. `seed` is 0 to 2**64 - 1.
    """

    classes: tuple[str, ...] = tuple(SHAPES)
    words: Mapping[str, str] = {}

    def __init__(self, split: Literal["train", "val"], count: int, seed: int = 0) -> None:
        self.split = split
        self.seed = seed
        self.labels: npt.NDArray[np.int64] = np.arange(count, dtype=np.int64) % len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, item: int) -> str:
        return f"demo/{self.split}/{self.classes[self.labels[item]]}/{item:06d}.jpg"

    def read(self, item: int) -> bytes:
        """Draw one picture; its JPEG."""
        draws = _Draws(key=(self.seed, _SPLIT_KEYS[self.split]), item=item)
        return jpeg.encode(_picture(self.classes[self.labels[item]], draws), _QUALITY)


class _Draws:
    """Random numbers from raw Philox output, which numpy promises to keep; its distributions may change."""

    def __init__(self, key: tuple[int, int], item: int) -> None:
        counter = np.array([0, 0, item, 0], dtype=np.uint64)
        self._philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)

    def uniform(self, *shape: int) -> Plane:
        """In [0, 1)."""
        raw: Plane = (self._philox.random_raw(int(np.prod(shape))) >> np.uint64(40)).astype(np.float32)
        return (raw * np.float32(2**-24)).reshape(shape)

    def noise(self, *shape: int) -> Plane:
        """Nearly normal, standard deviation 1: sums of four uniform bytes."""
        size = int(np.prod(shape))
        octets = self._philox.random_raw(-(-size // 2)).view(np.uint8).reshape(-1, 4)[:size]
        noise: Plane = (octets.sum(axis=1, dtype=np.float32) - 510) / np.float32(147.8)
        return noise.reshape(shape)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(1)[0])

    def integer(self, low: int, high: int) -> int:
        """low, ..., high - 1."""
        return int(self.between(low, high))


def _picture(name: str, draws: _Draws) -> npt.NDArray[np.uint8]:
    height, width = draws.integer(*_SIDES_PX), draws.integer(*_SIDES_PX)
    ink, paper = _two_colours(draws)
    clouds = _clouds(draws, height, width)
    cover = _coverage(name, draws, height, width)[..., None]
    rgb = paper + clouds + cover * (ink - paper - draws.between(0.3, 1) * clouds)
    rgb *= _lighting(draws, height, width)[..., None]
    rgb += draws.between(2, 12) * draws.noise(height, width)[..., None]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _two_colours(draws: _Draws) -> tuple[Plane, Plane]:
    """Any two RGB colours at least 140 (of 442) apart; which is the brighter one is left to chance."""
    while True:
        ink, paper = 20 + 215 * draws.uniform(2, 3)
        if np.linalg.norm(ink - paper) > 140:
            return ink, paper


def _coverage(name: str, draws: _Draws, height: int, width: int) -> Plane:
    """Height x width: 0 outside the shape, 1 inside, and on its edge the share of the pixel that it covers."""
    side = min(height, width)
    radius = side * draws.between(0.27, 0.4)
    reach = 0.44 * side - radius  # packing keeps the centre square, and training crops that
    down = np.arange(height, dtype=np.float32)[:, None] - (height / 2 + draws.between(-reach, reach))
    right = np.arange(width, dtype=np.float32)[None, :] - (width / 2 + draws.between(-reach, reach))
    turn, stretch = draws.between(0, 2 * np.pi), draws.between(0.85, 1)
    u = (np.cos(turn) * right + np.sin(turn) * down) / radius
    v = (np.cos(turn) * down - np.sin(turn) * right) / (radius * stretch)
    distance = SHAPES[name](u.astype(np.float32), v.astype(np.float32), draws.between)
    cover: Plane = np.clip(0.5 - distance * np.float32(radius), 0, 1).astype(np.float32)
    return cover


def _clouds(draws: _Draws, height: int, width: int) -> Plane:
    """Height x width x 3, around 0: a coarse grid of random colours, interpolated linearly."""
    rows, columns = draws.integer(3, 40), draws.integer(3, 40)
    grey, colour = draws.uniform(rows, columns, 1) - 0.5, draws.uniform(rows, columns, 3) - 0.5
    grid = np.float32(draws.between(5, 30)) * (grey + colour / 2)
    return _stretched(_stretched(grid, height, axis=0), width, axis=1)


def _stretched(grid: Plane, pixels: int, axis: int) -> Plane:
    """Interpolate linearly along one axis. (As a matrix product it would wake BLAS's threads in every worker.)"""
    place = np.linspace(0, grid.shape[axis] - 1, pixels, dtype=np.float32)
    before = np.minimum(place.astype(np.intp), grid.shape[axis] - 2)
    share = np.expand_dims(place - before.astype(np.float32), axis=(1 - axis, 2))
    low, high = np.take(grid, before, axis), np.take(grid, before + 1, axis)
    stretched: Plane = low + share * (high - low)
    return stretched


def _lighting(draws: _Draws, height: int, width: int) -> Plane:
    """Height x width: a factor that changes evenly across the picture."""
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    down, right = (np.float32(draws.between(-0.3, 0.3)) for _ in "yx")
    light: Plane = np.float32(draws.between(0.75, 1.2)) + down * y[:, None] + right * x[None, :]
    return light
