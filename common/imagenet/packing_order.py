"""In which order alexnet-pack makes records of a source's pictures: record r is item `shuffled(items, ORDER_SEED)[r]`,
where no picture was left out.
"""

import numpy as np
import numpy.typing as npt

ORDER_SEED = 2012


def shuffled(count: int, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..count - 1: the ranks of Philox's raw draws, whose bits are the same in every version."""
    draws = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64)
