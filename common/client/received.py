"""From a BATCH and its pixels to what the caller gets, checked against what was asked for."""

from collections.abc import Callable

import numpy as np

from .. import digest
from ..errors import LoaderFault, WireError
from ..spec import StreamInfo, StreamSpec
from ..wire import messages
from ..wire.slab import Replaced, Slab
from .batch import Batch
from .waits import Life
from .window import Work

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
