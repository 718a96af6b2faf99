"""Pictures of what a network has learnt first, and of many pictures beside each other. Plain arrays, no torch."""

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # height x width x 3, RGB

COLUMNS = 16  # of filters in a row, as in the paper's Fig. 3
_GAP, _GROUP_GAP = 1, 4  # black pixels between tiles, and between groups


def filters_picture(weights: npt.NDArray[np.float32], groups: int = 2) -> Picture:
    """The filters of the first layer, each a tile; those of half 0 above those of half 1, as in Fig. 3 of the paper.

    Each filter is stretched to its own range around grey: zero is 128, its weight farthest from zero 1 or 255.

    weights   n x 3 x height x width, n a multiple of `groups`; AlexNet's are 96 x 3 x 11 x 11
    groups    halves of the network: the first n / groups filters are half 0's
    """
    farthest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights / np.where(farthest > 0, farthest, 1)
    tiles = np.rint(128 + 127 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    sheets = [tiled(group, COLUMNS) for group in np.split(tiles, groups)]
    gap = np.zeros((_GROUP_GAP, *sheets[0].shape[1:]), np.uint8)
    return np.concatenate([part for sheet in sheets for part in (gap, sheet)][1:])


def tiled(pictures: npt.NDArray[np.uint8], columns: int) -> Picture:
    """Pictures of one size, n x height x width x 3, beside each other in rows of `columns`, black lines between."""
    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + _GAP) - _GAP, min(n, columns) * (width + _GAP) - _GAP, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet
