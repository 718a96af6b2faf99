"""Digests of images and of epochs."""

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from common import digest

digests = st.lists(st.integers(0, 2**64 - 1), max_size=30).map(lambda values: np.array(values, np.uint64))


@given(digests, st.integers(0, 30))
def test_a_rolling_digest_does_not_depend_on_where_it_was_interrupted(told: digest.Digests, at: int) -> None:
    whole = digest.roll(digest.NOTHING, told)
    assert digest.roll(digest.roll(digest.NOTHING, told[:at]), told[at:]) == whole


@given(digests.filter(lambda told: len(set(told.tolist())) > 1))
def test_it_depends_on_the_order(told: digest.Digests) -> None:
    if told.tolist() != told[::-1].tolist():
        assert digest.roll(digest.NOTHING, told) != digest.roll(digest.NOTHING, told[::-1])


def test_it_is_what_its_definition_says() -> None:
    first = xxhash.xxh3_128(bytes([1, 0, 0, 0, 0, 0, 0, 0])).digest()
    second = xxhash.xxh3_128(first + bytes([0, 1, 0, 0, 0, 0, 0, 0])).digest()
    assert digest.roll(digest.NOTHING, np.array([1, 256], np.uint64)) == second
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert digest.of_image(pixels, 3, 7) == xxhash.xxh3_64(pixels.tobytes(), seed=3 * 2**32 + 7).intdigest()
