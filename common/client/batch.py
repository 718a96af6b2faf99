"""Batches, and the checks a reply must pass to become one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .. import digest
from ..digest import Digests
from ..errors import LoaderError, LoaderFault, WireError
from ..spec import StreamInfo, StreamSpec
from ..wire.fields import StageTimes
from ..wire.messages import BatchReply
from ..wire.slab import Replaced, Slab
from . import guard

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Positions first..first + count - 1 of an epoch, under a ticket's number."""

    number: int
    epoch: int
    first: int
    count: int

    def __str__(self) -> str:
        return f"epoch {self.epoch}, positions {self.first}.."


@dataclass(frozen=True, slots=True)
class Timeline:
    """A batch on its way, in `time.monotonic` seconds.

    requested_s   first request to the service that sent it; None if that was gone or silent since
    decoded       images decoded for it; the others had been before
    """

    requested_s: float | None
    arrived_s: float
    stages: StageTimes
    decoded: int = 0


class Batch:
    """Consecutive positions of one epoch, from `first` on.

    images    n x height x width x 3, RGB, uint8 or float32; read-only if lent
    labels    int64 n
    records   int64 n, the record that each image was made from
    replaced  corrupt records that others stand in for
    digests   uint64 n, see `common/digest.py`, or None
    slab      that holds the images, or None
    kept      True if the caller gives the slot back

    Images belong to the caller unless lent (`Stream.batches(lend=True)`): then they are valid until the next batch is
    requested. `release` gives the slot back sooner, `keep` makes that the caller's job, `copy` owns its memory.
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
        timeline: Timeline | None = None,
        lent: bool = True,
    ) -> None:
        self.epoch, self.first = epoch, first
        self.labels, self.records = labels, records
        self.replaced, self.digests, self.timeline = tuple(replaced), digests, timeline
        self.lent = lent
        self._lease = guard.Lease(images, self._misuse) if lent and guard.is_wanted() else None
        self._images: Images | None = self._lease.images if self._lease is not None else images
        self.slab = slab if self._lease is None else None
        self.kept = False
        self._give_back = give_back

    @property
    def images(self) -> Images:
        """The pixels. Raises LoaderError once released."""
        if self._images is None:
            raise LoaderError(self._misuse)
        return self._images

    @property
    def _misuse(self) -> str:
        which = f"the batch of epoch {self.epoch}, position {self.first} was released"
        if not self.lent:
            return which
        return f"{which}: lent images are valid until the next batch is requested; batch.copy() keeps them for longer"

    def keep(self) -> None:
        """Keep lent images valid until `release`; KEPT batches of a stream at most."""
        self.kept = self.lent

    def release(self) -> None:
        """Give up the images, and their slot. Idempotent."""
        self._images = self.slab = None
        self.kept = False
        if self._lease is not None:
            self._lease.end()
        if self._give_back is not None:
            self._give_back()
            self._give_back = None

    def copy(self) -> "Batch":
        return self._with(cast(Images, np.array(self.images)))

    def own(self) -> "Batch":
        """The same in memory of its own; releases this one."""
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
            timeline=self.timeline,
            lent=False,
        )

    def is_intact(self) -> bool:
        assert self.digests is not None
        computed = digest.of_images(self.images, self.records.tolist(), self.labels.tolist())
        return np.array_equal(computed, self.digests)

    def __reduce__(self) -> Any:
        whole = self.copy() if self.lent else self
        rest: dict[str, Any] = {name: getattr(self, name) for name in ("replaced", "digests", "timeline")}
        return partial(Batch, **rest, lent=False), (self.epoch, self.first, whole.images, self.labels, self.records)

    def __len__(self) -> int:
        return len(self.labels)


Answer = Batch | LoaderFault


def displaced(answer: Answer) -> Answer:
    if isinstance(answer, LoaderFault):
        return answer
    copy = answer.copy()
    answer.release()
    return copy


@dataclass(frozen=True, slots=True)
class BatchFormat:
    spec: StreamSpec
    info: StreamInfo
    digests: bool

    def batch(
        self,
        request: BatchRequest,
        reply: BatchReply,
        pixels: memoryview,
        timeline: Timeline,
        *,
        slab: Slab | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> Batch:
        """The batch requested, a view of `pixels`. Raises WireError if the reply has another form."""
        self._check_sizes(request, reply, pixels)
        images = np.frombuffer(pixels, self.spec.dtype).reshape(request.count, *self.spec.image_shape)
        images.flags.writeable = False
        replaced = [Replaced(*place) for place in reply.replaced]
        if not all(request.first <= place.position < request.first + request.count for place in replaced):
            raise WireError("BATCH: a replaced position is not in it")
        labels, records = (np.frombuffer(raw, "<u4").astype(np.int64) for raw in (reply.labels, reply.records))
        if records.max() >= self.info.records or labels.max() >= len(self.info.classes):
            raise WireError("BATCH: a record or a label is not in the dataset")
        digests = np.frombuffer(reply.digests, "<u8").astype(np.uint64) if self.digests else None
        return Batch(
            request.epoch,
            request.first,
            images,
            labels,
            records,
            slab,
            give_back,
            replaced=replaced,
            digests=digests,
            timeline=timeline,
        )

    def empty(self, request: BatchRequest) -> Batch:
        images, numbers = np.zeros((0, *self.spec.image_shape), self.spec.dtype), np.zeros(0, np.int64)
        digests = np.zeros(0, np.uint64) if self.digests else None
        images.flags.writeable = False
        return Batch(request.epoch, request.first, images, numbers, numbers.copy(), digests=digests)

    def _check_sizes(self, request: BatchRequest, reply: BatchReply, pixels: memoryview) -> None:
        if not len(reply.records) == len(reply.labels) == 4 * request.count:
            raise WireError(f"BATCH: ticket {request.number} is for {request.count} images")
        if len(pixels) != request.count * self.spec.image_bytes:
            raise WireError(f"BATCH: {len(pixels)} bytes are not {request.count} images")
        if reply.decoded > request.count:
            raise WireError(f"BATCH: {reply.decoded} of {request.count} images cannot have been decoded")
        if len(reply.digests) != (8 * request.count if self.digests else 0):
            raise WireError(f"BATCH: {len(reply.digests)} bytes are not the digests of {request.count} images")
