"""The built-in dataset: drawn images of ten classes that only shape and texture tell apart.

All else is drawn independently of the class, so that neither a colour histogram nor a linear model of the pixels gets
far.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from common.images import jpeg

Plane = npt.NDArray[np.floating[Any]]  # height x width
Vary = Callable[[float, float], float]

_QUALITY = 92
_SIDES_PX = (256, 321)  # height and width are drawn from this range
_SPLIT_KEYS = {"train": 0, "val": 1}

# Shapes as signed distances, negative inside, in coordinates in which they fill the unit circle; `vary(low, high)`
# draws a width or a frequency.


def disc(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.hypot(u, v) - vary(0.8, 1)


def ring(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.abs(np.hypot(u, v) - 0.75) - vary(0.1, 0.2)


def square(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - vary(0.65, 0.8)


def triangle(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.maximum(np.maximum(0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v), v) - vary(0.4, 0.5)


def star(u: Plane, v: Plane, vary: Vary) -> Plane:
    """Five tips at radius 1 and five notches; all ten edges are folded onto one."""
    notch, tip_x, tip_y = vary(0.38, 0.48), np.cos(np.pi / 5), np.sin(np.pi / 5)
    fold = np.abs(np.remainder(np.arctan2(v, u), 0.4 * np.pi) - 0.2 * np.pi)  # 0 at a notch, pi/5 at a tip
    x, y = np.hypot(u, v) * np.cos(fold), np.hypot(u, v) * np.sin(fold)
    edge: Plane = ((x - notch) * tip_y - y * (tip_x - notch)) / np.hypot(tip_x - notch, tip_y)
    return edge


def cross(u: Plane, v: Plane, vary: Vary) -> Plane:
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - 0.95, short - vary(0.18, 0.3))


def stripes(u: Plane, v: Plane, vary: Vary) -> Plane:
    patch: Plane = np.maximum(np.hypot(u, v) - 1, _bars(u, vary(1.4, 2.4)))
    return patch


def chequers(u: Plane, v: Plane, vary: Vary) -> Plane:
    half_side, fields = 0.85, round(vary(3.5, 6.49))
    field = 2 * half_side / fields
    a, b = (_bars(axis + half_side + field / 2, 0.5 / field) for axis in (u, v))
    alternate = np.minimum(np.maximum(a, b), np.maximum(-a, -b))
    board: Plane = np.maximum(np.maximum(np.abs(u), np.abs(v)) - half_side, alternate)
    return board


def dots(u: Plane, v: Plane, vary: Vary) -> Plane:
    per_unit = vary(2, 2.6)
    radius = vary(0.24, 0.32) / per_unit
    x, y = ((np.floor(axis * per_unit) + 0.5) / per_unit for axis in (u, v))
    lattice: Plane = np.where(np.hypot(x, y) < 1 - radius, np.hypot(u - x, v - y) - radius, 1)
    return lattice


def spiral(u: Plane, v: Plane, vary: Vary) -> Plane:
    r, handed, per_unit = np.hypot(u, v), np.copysign(1, vary(-1, 1)), vary(1.6, 2.4)
    arm: Plane = np.maximum(r - 1, _bars(r + handed * np.arctan2(v, u) / (2 * np.pi * per_unit), per_unit))
    return arm


def _bars(axis: Plane, per_unit: float) -> Plane:
    """Bars as wide as their gaps, `per_unit` in a unit."""
    bars: Plane = (np.abs(np.remainder(axis * per_unit, 1) - 0.5) - 0.25) / per_unit
    return bars


SHAPES = {
    shape.__name__: shape for shape in (disc, ring, square, triangle, star, cross, stripes, chequers, dots, spiral)
}


class DemoSource:
    """A Source of `count` drawn images; item i is of class i modulo 10.

    Split and seed (0 to 2**64 - 1) are the key of numpy's Philox, the item the upper half of its counter, so no two
    images share a random number.
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
        return f"demo/{self.split}/{self._path(item)}"

    def path(self, item: int) -> bytes:
        return self._path(item).encode()

    def _path(self, item: int) -> str:
        return f"{self.classes[self.labels[item]]}/{item:06d}.jpg"

    def read(self, item: int) -> bytes:
        draws = _Draws(key=(self.seed, _SPLIT_KEYS[self.split]), item=item)
        return jpeg.encode(_image(self.classes[self.labels[item]], draws), _QUALITY)


class _Draws:
    """Random numbers from raw Philox output, which is the same in every numpy; its distributions may change."""

    def __init__(self, key: tuple[int, int], item: int) -> None:
        counter = np.array([0, 0, item, 0], dtype=np.uint64)
        self._philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)

    def uniform(self, *shape: int) -> Plane:
        raw: Plane = (self._philox.random_raw(int(np.prod(shape))) >> np.uint64(40)).astype(np.float32)
        return (raw * np.float32(2**-24)).reshape(shape)

    def noise(self, *shape: int) -> Plane:
        """Nearly normal noise of standard deviation 1: sums of four uniform bytes."""
        size = int(np.prod(shape))
        octets = self._philox.random_raw(-(-size // 2)).view(np.uint8).reshape(-1, 4)[:size]
        noise: Plane = (octets.sum(axis=1, dtype=np.float32) - 510) / np.float32(147.8)
        return noise.reshape(shape)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(1)[0])

    def integer(self, low: int, high: int) -> int:
        return int(self.between(low, high))


def _image(name: str, draws: _Draws) -> npt.NDArray[np.uint8]:
    height, width = draws.integer(*_SIDES_PX), draws.integer(*_SIDES_PX)
    ink, paper = _two_colours(draws)
    clouds = _clouds(draws, height, width)
    cover = _coverage(name, draws, height, width)[..., None]
    rgb = paper + clouds + cover * (ink - paper - draws.between(0.3, 1) * clouds)
    rgb *= _lighting(draws, height, width)[..., None]
    rgb += draws.between(2, 12) * draws.noise(height, width)[..., None]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _two_colours(draws: _Draws) -> tuple[Plane, Plane]:
    """Two RGB colours at least 140 (of 442) apart."""
    while True:
        ink, paper = 20 + 215 * draws.uniform(2, 3)
        if np.linalg.norm(ink - paper) > 140:
            return ink, paper


def _coverage(name: str, draws: _Draws, height: int, width: int) -> Plane:
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
    rows, columns = draws.integer(3, 40), draws.integer(3, 40)
    grey, colour = draws.uniform(rows, columns, 1) - 0.5, draws.uniform(rows, columns, 3) - 0.5
    grid = np.float32(draws.between(5, 30)) * (grey + colour / 2)
    return _stretched(_stretched(grid, height, axis=0), width, axis=1)


def _stretched(grid: Plane, pixels: int, axis: int) -> Plane:
    """Interpolate linearly along one axis. (A matrix product would wake BLAS's threads in every worker.)"""
    place = np.linspace(0, grid.shape[axis] - 1, pixels, dtype=np.float32)
    before = np.minimum(place.astype(np.intp), grid.shape[axis] - 2)
    share = np.expand_dims(place - before.astype(np.float32), axis=(1 - axis, 2))
    low, high = np.take(grid, before, axis), np.take(grid, before + 1, axis)
    stretched: Plane = low + share * (high - low)
    return stretched


def _lighting(draws: _Draws, height: int, width: int) -> Plane:
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    down, right = (np.float32(draws.between(-0.3, 0.3)) for _ in "yx")
    light: Plane = np.float32(draws.between(0.75, 1.2)) + down * y[:, None] + right * x[None, :]
    return light
