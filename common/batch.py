"""What a client delivers."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common import guard
from common.digest import Digests
from common.errors import LoaderError
from common.slab import Replaced, Slab
from common.waits import Life

KEPT = 1  # so many batches of a stream may be kept while the next is asked for: its slab has slots for no more

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class Batch:
    """Consecutive positions of one epoch.

    epoch    0, 1, ...
    first    position of the first picture in the epoch's order; `first + len(batch)` is the next batch's
    images   n x height x width x 3, RGB, uint8 (or float32, as the stream was asked for); read only
    labels   int64 n
    records  int64 n, the record of the data set each picture came from
    replaced places whose own record is bad; with `on_bad_record="stop"` there are none
    digests  uint64 n, see `common.digest`; None where the stream was not opened with them
    life     when it was asked for and came, and what took how long; None where nobody knows

    slab     in one of whose slots the images lie; None where they lie in memory of their own, or were released
    kept     whether the slot is the caller's to give back

    On the service's own host the images lie in a slot of its slab, which will be used again: they are good until the
    next batch is asked for. `release` gives the slot back sooner, `keep` leaves it to the caller to do so later, `copy`
    makes a batch in memory of its own. With ALEXNET_DEBUG=1 using them later is an error, see `common.guard`.
    """

    def __init__(
        self,
        epoch: int,
        first: int,
        images: Images,
        labels: npt.NDArray[np.int64],
        records: npt.NDArray[np.int64],
        slab: Slab | None = None,
        give_back: Callable[[], None] | None = None,
        *,
        replaced: Sequence[Replaced] = (),
        digests: Digests | None = None,
        life: Life | None = None,
    ) -> None:
        self.epoch, self.first = epoch, first
        self.labels, self.records = labels, records
        self.replaced, self.digests, self.life = tuple(replaced), digests, life
        self._lease = guard.Lease(images, self._misuse) if guard.is_wanted() else None
        self._images: Images | None = self._lease.images if self._lease is not None else images
        self.slab = slab if self._lease is None else None
        self.kept = False
        self._give_back = give_back

    @property
    def images(self) -> Images:
        """The pixels; LoaderError once they were released."""
        if self._images is None:
            raise LoaderError(self._misuse)
        return self._images

    @property
    def _misuse(self) -> str:
        return (
            f"the batch of epoch {self.epoch}, position {self.first} was released: images are good until the next"
            " batch is asked for; batch.copy() has them for longer"
        )

    def keep(self) -> None:
        """The images stay good until `release`, whatever is asked for meanwhile; KEPT batches of a stream at most."""
        self.kept = True

    def release(self) -> None:
        """The images are not needed any more. A second time changes nothing."""
        self._images = self.slab = None
        self.kept = False
        if self._lease is not None:
            self._lease.end()
        if self._give_back is not None:
            self._give_back()
            self._give_back = None

    def copy(self) -> "Batch":
        """The same batch in memory of its own."""
        return Batch(
            self.epoch,
            self.first,
            self.images.copy(),
            self.labels,
            self.records,
            replaced=self.replaced,
            digests=self.digests,
            life=self.life,
        )

    def __len__(self) -> int:
        return len(self.labels)
