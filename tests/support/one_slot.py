"""A slot without a service; its memory goes with it."""

from common.spec import StreamSpec
from common.wire.slab import Slab, SlotBatch, slot_bytes


def one_slot(spec: StreamSpec, count: int) -> SlotBatch:
    slab = Slab.create(slot_bytes(spec, count), 1)
    batch = slab.batch(0, spec, count)
    slab.close()
    return batch
