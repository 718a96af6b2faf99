"""The ten shapes of the demo data set, as signed distances: negative inside, zero on the edge, plain geometry.

Coordinates are those in which the shape fills the unit circle; `vary(low, high)` draws a width or a frequency.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating[Any]]  # height x width
Vary = Callable[[float, float], float]


def disc(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.hypot(u, v) - vary(0.8, 1)


def ring(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.abs(np.hypot(u, v) - 0.75) - vary(0.1, 0.2)


def square(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - vary(0.65, 0.8)


def triangle(u: Plane, v: Plane, vary: Vary) -> Plane:
    return np.maximum(np.maximum(0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v), v) - vary(0.4, 0.5)


def star(u: Plane, v: Plane, vary: Vary) -> Plane:
    """Five tips at radius 1 and five notches further in: all ten edges folded onto one."""
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
    """A board of 4, 5 or 6 fields a side."""
    half_side, fields = 0.85, round(vary(3.5, 6.49))
    field = 2 * half_side / fields
    a, b = (_bars(axis + half_side + field / 2, 0.5 / field) for axis in (u, v))
    alternate = np.minimum(np.maximum(a, b), np.maximum(-a, -b))
    board: Plane = np.maximum(np.maximum(np.abs(u), np.abs(v)) - half_side, alternate)
    return board


def dots(u: Plane, v: Plane, vary: Vary) -> Plane:
    """The dots of a square lattice whose centres lie in the circle."""
    per_unit = vary(2, 2.6)
    radius = vary(0.24, 0.32) / per_unit
    x, y = ((np.floor(axis * per_unit) + 0.5) / per_unit for axis in (u, v))
    lattice: Plane = np.where(np.hypot(x, y) < 1 - radius, np.hypot(u - x, v - y) - radius, 1)
    return lattice


def spiral(u: Plane, v: Plane, vary: Vary) -> Plane:
    """One Archimedean arm, left- or right-handed."""
    r, handed, per_unit = np.hypot(u, v), np.copysign(1, vary(-1, 1)), vary(1.6, 2.4)
    arm: Plane = np.maximum(r - 1, _bars(r + handed * np.arctan2(v, u) / (2 * np.pi * per_unit), per_unit))
    return arm


def _bars(axis: Plane, per_unit: float) -> Plane:
    """Bars across an axis, as wide as the gaps between them: `per_unit` of each in a unit."""
    bars: Plane = (np.abs(np.remainder(axis * per_unit, 1) - 0.5) - 0.25) / per_unit
    return bars


SHAPES = {
    shape.__name__: shape for shape in (disc, ring, square, triangle, star, cross, stripes, chequers, dots, spiral)
}
