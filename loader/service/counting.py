"""Counts of the service for --metrics: events, as they come."""

from common.wire.messages import BatchReply, Fault
from loader.monitoring.figures import (
    BATCHES,
    FAULTS,
    IGNORED,
    IMAGES,
    PIXEL_BYTES,
    REPLACED,
    TICKET_WAIT,
    WORKER_SECONDS,
    Figures,
)
from loader.service.session import Job
from loader.workers import link


class Counts:
    """Events, added to `figures`; pixels that take no slab go by `wire`: tcp or unix, encrypted or not."""

    def __init__(self, figures: Figures | None = None, wire: tuple[str, bool] = ("tcp", False)) -> None:
        self.figures = figures or Figures()
        self._wire = wire[0], str(wire[1]).lower()

    def answered(self, job: Job, task: link.Task, reply: BatchReply, *, is_first: bool) -> None:
        """Count a batch; `is_first` in its task's places: the others share what was decoded for it."""
        split, count = job.session.spec.split, job.ticket.count
        shared = isinstance(task, link.Copy) or not is_first
        sources = {"shared": count} if shared else {"decoded": reply.decoded, "kept": count - reply.decoded}
        for source, images in sources.items():
            self.figures.add(IMAGES, images, split, source)
        self.figures.add(BATCHES, 1, split)
        self.figures.add(REPLACED, len(reply.replaced), split)
        way = ("slab", "false") if job.ticket.by_slot else self._wire
        self.figures.add(PIXEL_BYTES, count * job.session.spec.image_bytes, *way)
        for reason, waited_us in zip(("worker", "slot"), job.waited_us, strict=True):
            self.figures.add(TICKET_WAIT, waited_us, reason)

    def worked(self, task: link.Task, filled: link.Filled) -> None:
        if isinstance(task, link.Copy):
            self.figures.add(WORKER_SECONDS, filled.augment_us, "copy")
            return
        stages = {"read": filled.read_us, "decode": filled.decode_us, "augment": filled.augment_us}
        for stage, spent_us in stages.items():
            self.figures.add(WORKER_SECONDS, spent_us, stage)

    def refused(self, fault: Fault) -> None:
        self.figures.add(FAULTS, 1, fault.code)

    def ignored(self) -> None:
        self.figures.add(IGNORED, 1)
