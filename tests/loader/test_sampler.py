"""The order of records and the draws of a position are functions of (seed, epoch, position)."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from common.spec import StreamSpec
from loader.workers import sampler

COLOUR = np.diag([19.7, 37.1, 121.8])
seeds = st.integers(0, 2**63 - 1)


@given(records=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 1000))
def test_an_epoch_holds_every_record_exactly_once(records: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(sampler.order(records, seed, epoch)), np.arange(records))


@given(seed=seeds, epoch=st.integers(0, 1000), cut=st.integers(1, 99))
def test_draws_do_not_depend_on_how_an_epoch_is_cut_into_batches(seed: int, epoch: int, cut: int) -> None:
    spec = StreamSpec(seed=seed, crop=224)
    whole = sampler.draws_at(spec, COLOUR, epoch, 0, 100)
    parts = [sampler.draws_at(spec, COLOUR, epoch, 0, cut), sampler.draws_at(spec, COLOUR, epoch, cut, 100 - cut)]
    for name in ("top", "left", "flip", "offset"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


def test_seeds_and_epochs_give_different_orders_and_draws() -> None:
    orders = {sampler.order(1000, seed, epoch).tobytes() for seed in range(5) for epoch in range(5)}
    draws = {
        sampler.draws_at(StreamSpec(seed=seed), COLOUR, epoch, 0, 100).offset.tobytes()
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == len(draws) == 25


def test_seven_streams_of_imagenet_and_more_small_ones_each_sort_their_epoch_once() -> None:
    for records, seeds in ((1_281_167, range(7)), (10_000, range(30))):
        first, again = ([sampler.order(records, seed, 0) for seed in seeds] for _ in range(2))
        assert all(one is other for one, other in zip(first, again, strict=True))


def test_the_stream_is_the_one_that_earlier_versions_gave() -> None:
    draws = sampler.draws_at(StreamSpec(seed=7, crop=227), COLOUR, 3, 1280, 128)
    parts = (sampler.order(1_281_167, 7, 3).astype(np.int64), draws.top, draws.left, draws.flip, draws.offset)
    digest = hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).hexdigest()
    assert digest == "b9429396cce4cfd34e067690b5b8424b"


def test_crops_cover_every_offset_and_flips_are_half() -> None:
    draws = sampler.draws_at(StreamSpec(crop=224), COLOUR, 0, 0, 20_000)
    assert set(draws.top.tolist()) == set(draws.left.tolist()) == set(range(33))
    assert stats.chisquare(np.bincount(draws.top)).pvalue > 1e-4
    assert abs(draws.flip.mean() - 0.5) < 0.02


def test_colour_noise_is_normal_with_the_components_deviations() -> None:
    offset = sampler.draws_at(StreamSpec(sigma=0.1), COLOUR, 0, 0, 50_000).offset
    for channel in range(3):
        scaled = offset[:, channel] / (0.1 * COLOUR[channel, channel])
        assert stats.kstest(scaled, "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(offset.T) - np.eye(3)).max() < 0.02


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_normal_is_the_inverse_of_the_normal_distribution(raw: list[int]) -> None:
    array = np.array(raw, np.uint64)
    p = ((array >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    np.testing.assert_allclose(sampler.normal(array), special.ndtri(p), rtol=1e-14, atol=1e-15)
