import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.stats import MAX_IMAGES, PartialSums, Stats, Sums


def pictures(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """n x 256 x 256 x 3 with correlated channels, different in every place."""
    random = np.random.default_rng(seed)
    shared = random.integers(0, 128, (count, 256, 256, 1))
    return (shared + random.integers(0, 128, (count, 256, 256, 3)) // [1, 2, 4]).astype(np.uint8)


def sums_of(*groups: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Sums:
    sums = Sums()
    for group in groups:
        part = PartialSums()
        for rgb in group:
            part.add(rgb)
        sums.merge(part)
    return sums


def test_mean_and_components_are_those_of_all_pixels() -> None:
    x = pictures(6)
    stats = Stats.of(sums_of(x))
    np.testing.assert_allclose(stats.mean_hwc, x.mean(axis=0), rtol=1e-6)
    covariance = np.cov(x.reshape(-1, 3).astype(float), rowvar=False, bias=True)
    np.testing.assert_allclose(stats.components @ stats.components.T, np.eye(3), atol=1e-12)
    rebuilt = (stats.components.T * stats.sd**2) @ stats.components
    np.testing.assert_allclose(rebuilt, covariance, rtol=1e-10)
    assert (np.diff(stats.sd) > 0).all()
    largest = np.abs(stats.components).argmax(axis=1)
    assert (stats.components[np.arange(3), largest] > 0).all()


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 7))
def test_neither_order_nor_grouping_changes_a_bit(order: list[int], cut: int) -> None:
    x = pictures(7)
    assert sums_of(x[order][:cut], x[order][cut:]).to_bytes() == sums_of(x).to_bytes()


def test_sums_survive_being_written_down() -> None:
    sums = sums_of(pictures(3))
    again = Sums.from_bytes(sums.to_bytes())
    again.merge(PartialSums())
    assert again.to_bytes() == sums.to_bytes()
    assert again.records == 3


def test_a_part_holds_257_white_pictures_and_no_more() -> None:
    white = np.full((256, 256, 3), 255, np.uint8)
    part = PartialSums()
    for _ in range(MAX_IMAGES):
        part.add(white)
    assert (part.sum_hwc == 255 * 257).all()
    with pytest.raises(AssertionError):
        part.add(white)


def test_grey_pictures_have_one_component_and_no_noise_across_it() -> None:
    grey = pictures(2)[:, :, :, :1].repeat(3, axis=3)
    stats = Stats.of(sums_of(grey))
    np.testing.assert_allclose(stats.components[2], np.full(3, 3**-0.5))
    assert stats.sd[2] == pytest.approx(grey.std() * 3**0.5)
    assert (stats.sd[:2] < 1e-5).all()


def test_stats_survive_being_written_down() -> None:
    stats = Stats.of(sums_of(pictures(2)))
    again = Stats.from_fields(stats.to_fields())
    for name in ("mean_hwc", "sd", "components"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stats, name))
        assert getattr(again, name).dtype == getattr(stats, name).dtype
