"""Whole-image operations; the only file that imports cv2."""

import cv2
import numpy as np
import numpy.typing as npt

from ..spec import STORED_SIZE

Rgb = npt.NDArray[np.uint8]  # height x width x 3


def use_one_thread() -> None:
    cv2.setNumThreads(1)


def centre_square(rgb: Rgb) -> Rgb:
    """The central square of a height x width x 3 image as 256x256x3, possibly sharing its memory.

    It is cut first and then resized, so that a strip of 1 x 65500 pixels stays small.
    """
    height, width, _ = rgb.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = rgb[top : top + side, left : left + side]
    if side == STORED_SIZE:
        return np.ascontiguousarray(square)
    method = cv2.INTER_AREA if side > STORED_SIZE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (STORED_SIZE, STORED_SIZE), interpolation=method), dtype=np.uint8)


def channel_products(rgb: Rgb) -> npt.NDArray[np.int64]:
    """The sum over all pixels of c_i * c_j, 3x3 int64, exact for images of up to a few million pixels.

    Computed from squares, 2 a.b = a.a + b.b - |a - b|^2, which OpenCV sums ten times as fast as a matrix product.
    """
    red, green, blue = cv2.split(rgb)
    rr, gg, bb = (_sum_of_squares(plane) for plane in (red, green, blue))
    rg = (rr + gg - _sum_of_squares(red, green)) // 2
    rb = (rr + bb - _sum_of_squares(red, blue)) // 2
    gb = (gg + bb - _sum_of_squares(green, blue)) // 2
    return np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]], np.int64)


def _sum_of_squares(*planes: npt.NDArray[np.generic]) -> int:
    # OpenCV returns the integer through a square root.
    return round(float(cv2.norm(*planes, cv2.NORM_L2SQR)))  # type: ignore[call-overload]


def add_saturating(rgb: Rgb, amounts: Rgb, target: Rgb) -> None:
    """target = min(rgb + amounts, 255); `target` may be `rgb`."""
    cv2.add(rgb, amounts, dst=target)


def subtract_saturating(rgb: Rgb, amounts: Rgb, target: Rgb) -> None:
    """target = max(rgb - amounts, 0); `target` may be `rgb`."""
    cv2.subtract(rgb, amounts, dst=target)


def mirror(rgb: Rgb, target: Rgb) -> None:
    cv2.flip(rgb, 1, dst=target)


def version() -> str:
    return f"OpenCV {cv2.__version__}"
