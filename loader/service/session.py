"""Soft state of one client stream; losing it costs a retry."""

import functools
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from common.errors import LoaderError
from common.spec import StreamSpec
from common.wire import messages
from common.wire.slab import KEPT, Slab, SlotBatch, slot_bytes
from loader.dataset import Dataset
from loader.service.ahead import Ahead
from loader.service.resources import usable_cores
from loader.workers.link import Place

# Beyond the credit: batches that the client keeps, and the last one it read, acknowledged by its next ticket; or slots
# that a socket still reads although the client has its batch.
SPARE_SLOTS = 1 + KEPT
_NUMBER = struct.Struct("<I")

Address = tuple[bytes, bytes]  # a client's identity, a stream's id
Key = tuple[int, int, int]  # epoch, first position and count of a batch
Tracker = zmq.MessageTracker  # of a payload in flight


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(eq=False, slots=True)
class Job:
    """One ticket, from its arrival until its slot is free again.

    queued    no slot: not given to a worker yet, or its worker crashed
    filling   a worker writes to `slot`
    sending   the socket reads the slot until `tracker` is done
    lent      `reply` lent the slot to the client, until it acknowledges the ticket

    starved_us   time that the stream had been without a free slot when the ticket came
    waited_us    for a worker, and for a slot
    crashes      the record in progress at each crash
    batch        views of its slot
    """

    session: "Session"
    ticket: messages.Ticket
    came_us: int
    starved_us: int
    slot: int | None = None
    waited_us: tuple[int, int] = (0, 0)
    crashes: list[int | None] = field(default_factory=list)
    batch: SlotBatch | None = None
    tracker: Tracker | None = None
    reply: messages.BatchReply | None = None

    @property
    def key(self) -> Key:
        return self.ticket.epoch, self.ticket.first, self.ticket.count


@dataclass(eq=False)
class Session:
    """One stream of one client; `jobs` by ticket number, oldest first; `latest` is what the newest ticket asks for."""

    address: Address
    spec: StreamSpec
    dataset: Dataset
    batch_size: int
    digests: bool
    ranks: int
    credit: int
    slab_number: int
    now_us: Callable[[], int] = _monotonic_us
    jobs: dict[int, Job] = field(default_factory=dict)
    latest: Key = (0, 0, 0)

    def __post_init__(self) -> None:
        slots = self.credit + SPARE_SLOTS
        self.slab = Slab.create(slot_bytes(self.spec, self.batch_size), slots)
        self._free = list(range(slots))  # the last one freed is used first: its pages are still in the cache
        self._oldest, self._done = 0, set[int]()  # acknowledged: all tickets below, and these
        self._starved_us = 0  # time without a free slot, up to the moment when the present one began
        self._starved_since_us: int | None = None

    @staticmethod
    def bytes_of(spec: StreamSpec, batch_size: int, credit: int) -> int:
        return slot_bytes(spec, batch_size) * (credit + SPARE_SLOTS)

    @functools.cached_property
    def ahead(self) -> Ahead:
        return Ahead(self.dataset.records, self.dataset.record_bytes)

    @property
    def name(self) -> str:
        return self.address[1].hex()[:8]

    @property
    def free_slots(self) -> int:
        return len(self._free)

    @property
    def is_sending(self) -> bool:
        return any(job.tracker is not None for job in self.jobs.values())

    def is_done(self, number: int) -> bool:
        return number < self._oldest or number in self._done

    def settle(self, ticket: messages.Ticket) -> list[Job]:
        """End the lent and queued jobs that a ticket acknowledges; returns the queued ones."""
        self._oldest = max(self._oldest, ticket.oldest)
        self._done = {ticket.oldest + after for (after,) in _NUMBER.iter_unpack(ticket.done)}
        done = [job for job in self.jobs.values() if self.is_done(job.ticket.number)]
        queued = [job for job in done if job.slot is None]
        for job in queued + [job for job in done if job.reply is not None]:
            self.end(job)
        return queued

    def admit(self, ticket: messages.Ticket) -> Job:
        now_us = self.now_us()
        self.jobs[ticket.number] = job = Job(self, ticket, now_us, self._starved(now_us))
        self.latest = job.key
        return job

    def begin(self, job: Job) -> Place:
        now_us = self.now_us()
        for_slot_us = self._starved(now_us) - job.starved_us
        job.waited_us = now_us - job.came_us - for_slot_us, for_slot_us
        job.slot = self._free.pop()
        job.batch = self.slab.batch(job.slot, self.spec, job.ticket.count)
        if not self._free:
            self._starved_since_us = now_us
        return Place(self.slab_number, job.slot)

    def in_slot(self, slot: int) -> Job:
        return next(job for job in self.jobs.values() if job.slot == slot)

    def release(self, job: Job) -> None:
        if job.slot is not None:
            now_us = self.now_us()
            self._starved_us, self._starved_since_us = self._starved(now_us), None
            self._free.append(job.slot)
            job.slot = job.batch = None

    def end(self, job: Job) -> None:
        self.release(job)
        del self.jobs[job.ticket.number]

    def reclaim(self) -> None:
        for job in [job for job in self.jobs.values() if job.tracker is not None and job.tracker.done]:
            self.end(job)

    def close(self) -> None:
        self.jobs.clear()  # which refer to this: the memory would stay until they are found to be garbage
        self.slab.close()

    def _starved(self, now_us: int) -> int:
        running_us = 0 if self._starved_since_us is None else now_us - self._starved_since_us
        return self._starved_us + running_us


def credit_for(spec: StreamSpec, batch_size: int, ranks: int, workers: int, stream_bytes: int) -> int:
    """Batches one of `ranks` clients may have in flight: enough that all keep the cores busy, within the memory.

    Raises LoaderError if not even one fits.
    """
    size = slot_bytes(spec, batch_size)
    alone = min(workers, usable_cores()) + 2
    credit = min(alone, -(-alone // ranks) + 2, stream_bytes // size - SPARE_SLOTS)
    if credit < 1:
        needed_mib = -(-size * (SPARE_SLOTS + 1) // 2**20)
        raise LoaderError(
            f"batches of {batch_size} need {needed_mib} MiB; a stream may take {stream_bytes >> 20} MiB"
            " (alexnet-loader --stream-mib, --memory-mib)"
        )
    return credit
