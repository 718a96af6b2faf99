"""What a client delivers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive positions of one epoch.

    epoch    0, 1, ...
    first    position of the first picture in the epoch's order; `first + len(batch)` is the next batch's
    images   n x height x width x 3, RGB, uint8 (or float32, as the stream was asked for); read only
    labels   int64 n
    records  int64 n, the record of the data set each picture came from
    """

    epoch: int
    first: int
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    records: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)
