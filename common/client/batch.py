"""What a client delivers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .. import digest
from ..digest import Digests
from ..errors import LoaderError, LoaderFault, WireError
from ..spec import StreamInfo, StreamSpec
from ..wire import messages
from ..wire.slab import Replaced, Slab
from . import guard
from .waits import Life
from .window import Work

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class Batch:
    """Consecutive positions of one epoch.

    epoch    0, 1, ...
    first    position of the first picture in the epoch's order; `first + len(batch)` is the next batch's
    images   n x height x width x 3, RGB, uint8 (or float32, as the stream was asked for); read only if lent
    labels   int64 n
    records  int64 n, the record of the data set each picture came from
    replaced places whose own record is bad; with `on_bad_record="stop"` there are none
    digests  uint64 n, see `common.digest`; None where the stream was not opened with them
    life     when it was asked for and came, and what took how long; None where nobody knows

    lent     whether the images may lie in a slot of the service's slab, which will be used again
    slab     in one of whose slots the images lie; None if they lie in memory of their own, or were released
    kept     whether the slot is the caller's to give back

    Unless lending was asked for (`Stream.batches(lend=True)`), the images are the caller's: good for ever, to be
    written to, shared with torch.from_numpy without a copy. Lent ones are good until the next batch is asked for:
    `release` gives the slot back sooner, `keep` leaves it to the caller to do so later, `copy` makes a batch in memory
    of its own. With ALEXNET_DEBUG=1 using lent images later is an error, see `common.client.guard`.
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
        lent: bool = True,
    ) -> None:
        self.epoch, self.first = epoch, first
        self.labels, self.records = labels, records
        self.replaced, self.digests, self.life = tuple(replaced), digests, life
        self.lent = lent
        self._lease = guard.Lease(images, self._misuse) if lent and guard.is_wanted() else None
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
        which = f"the batch of epoch {self.epoch}, position {self.first} was released"
        if not self.lent:
            return which
        return f"{which}: lent images are good until the next batch is asked for; batch.copy() has them for longer"

    def keep(self) -> None:
        """The images stay good until `release`, whatever is asked for meanwhile; KEPT lent batches of a stream at most.

        Images that are not lent stay good anyway.
        """
        self.kept = self.lent

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
        return self._with(cast(Images, np.array(self.images)))

    def own(self) -> "Batch":
        """The same batch for its caller to have for ever, its slot given back; what lies in no slot is not copied."""
        images = self.images
        if self.slab is not None or self._lease is not None or not images.flags.aligned:
            owned = self.copy()
        else:
            owned = self._with(images)
            images.flags.writeable = True
        self.release()
        return owned

    def _with(self, images: Images) -> "Batch":
        return Batch(
            self.epoch,
            self.first,
            images,
            self.labels,
            self.records,
            replaced=self.replaced,
            digests=self.digests,
            life=self.life,
            lent=False,
        )

    def __reduce__(self) -> Any:
        """Another process gets the images in memory of their own."""
        whole = self.copy() if self.lent else self
        rest: dict[str, Any] = {name: getattr(self, name) for name in ("replaced", "digests", "life")}
        return partial(Batch, **rest, lent=False), (self.epoch, self.first, whole.images, self.labels, self.records)

    def __len__(self) -> int:
        return len(self.labels)


Answer = Batch | LoaderFault


def batch_of(
    work: Work,
    spec: StreamSpec,
    info: StreamInfo,
    reply: messages.BatchReply,
    pixels: memoryview,
    digests: bool,
    life: Life,
    slab: Slab | None,
    give_back: Callable[[], None] | None,
) -> Batch:
    """The batch that was asked for as `work`, its images a view of `pixels`. WireError where it is another."""
    if not len(reply.records) == len(reply.labels) == 4 * work.count:
        raise WireError(f"BATCH: ticket {work.number} is for {work.count} pictures")
    if len(pixels) != work.count * spec.image_bytes:
        raise WireError(f"BATCH: {len(pixels)} bytes are not {work.count} pictures")
    if len(reply.digests) != (8 * work.count if digests else 0):
        raise WireError(f"BATCH: {len(reply.digests)} bytes are not the digests of {work.count} pictures")
    replaced = [Replaced(*place) for place in reply.replaced]
    if not all(work.first <= place.position < work.first + work.count for place in replaced):
        raise WireError("BATCH: a place was replaced that is not in it")
    images = np.frombuffer(pixels, spec.dtype).reshape(work.count, *spec.image_shape)
    images.flags.writeable = False
    labels, records = (np.frombuffer(raw, "<u4").astype(np.int64) for raw in (reply.labels, reply.records))
    if records.max() >= info.records or labels.max() >= len(info.classes):
        raise WireError("BATCH: a record or a label is none of the data set's")
    told = np.frombuffer(reply.digests, "<u8").astype(np.uint64) if digests else None
    return Batch(
        work.epoch, work.first, images, labels, records, slab, give_back, replaced=replaced, digests=told, life=life
    )


def is_intact(batch: Batch) -> bool:
    """Whether pixels, records and labels are those whose digests the batch carries."""
    assert batch.digests is not None
    made_anew = digest.of_pictures(batch.images, batch.records.tolist(), batch.labels.tolist())
    return np.array_equal(made_anew, batch.digests)


def displaced(answer: Answer) -> Answer:
    """The answer outside of its slot, which is given back."""
    if isinstance(answer, LoaderFault):
        return answer
    copy = answer.copy()
    answer.release()
    return copy
