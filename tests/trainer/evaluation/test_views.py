"""The ten views, against crops cut by hand."""

import numpy as np
import pytest
import torch

from tests.support.trained_nets import crops
from trainer.evaluation.ensemble import MOST, View, views

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)


@pytest.mark.parametrize("size", [224, 227, 1, 256])
def test_views_are_the_paper_s_ten_crops(size: int) -> None:
    assert len(views(size)) == MOST
    for number, view in enumerate(views(size)):
        expected = [crops(picture, size)[number] for picture in PICTURES]
        assert np.array_equal(view.of(torch.from_numpy(PICTURES), size).numpy(), expected)


@pytest.mark.parametrize(("size", "far", "middle"), [(224, 32, 16), (227, 29, 14)])
def test_offsets_are_those_that_are_printed(size: int, far: int, middle: int) -> None:
    corners = {(0, 0), (0, far), (far, 0), (far, far), (middle, middle)}
    assert views(size)[0] == View(middle, middle)
    for mirrored in (False, True):
        assert {(view.top, view.left) for view in views(size) if view.mirrored == mirrored} == corners
