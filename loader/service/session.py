"""What the service knows of one stream of one client: little, and nothing that another service could not do without."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import zmq

from common.errors import LoaderError
from common.spec import StreamSpec
from common.wire import messages
from common.wire.slab import KEPT, Slab, slot_bytes
from loader.dataset import Dataset
from loader.service.queued import QueueTimes
from loader.service.resources import usable_cores
from loader.service.slots import SlotTable

# Beyond the credit: the client may keep some, and the one it has finished with last is given back with its next ticket;
# or a socket still reads from the slot when the client has its batch already.
SPARE_SLOTS = 1 + KEPT

Address = tuple[bytes, bytes]  # a client's identity, a stream's id
Tracker = zmq.MessageTracker  # of pixels on their way


@dataclass(eq=False)
class Sent:
    """A slot that the socket reads from until `tracker` is done."""

    ticket: messages.Ticket
    slot: int
    tracker: Tracker


@dataclass(eq=False)
class Session:
    """One stream of one client."""

    address: Address
    spec: StreamSpec
    dataset: Dataset
    batch_size: int
    digests: bool
    credit: int
    slab_number: int
    slab: Slab = field(init=False)
    slots: SlotTable = field(init=False)
    queued: QueueTimes = field(default_factory=QueueTimes)
    filling: dict[int, messages.Ticket] = field(default_factory=dict)  # by slot
    sent: deque[Sent] = field(default_factory=deque)
    lent: dict[int, messages.BatchReply] = field(default_factory=dict)  # the answer by slot that the client reads from
    oldest: int = 0  # the client is done with all tickets below, and with those in `done`
    done: set[int] = field(default_factory=set)
    deaths: dict[int, list[int | None]] = field(default_factory=dict)  # by ticket number, the record each was at

    def __post_init__(self) -> None:
        slots = self.credit + SPARE_SLOTS
        self.slab = Slab.create(slot_bytes(self.spec, self.batch_size), slots)
        self.slots = SlotTable(slots)

    @staticmethod
    def bytes_of(spec: StreamSpec, batch_size: int, credit: int) -> int:
        """The shared memory that such a session takes."""
        return slot_bytes(spec, batch_size) * (credit + SPARE_SLOTS)

    @property
    def name(self) -> str:
        return self.address[1].hex()[:8]

    def has(self, number: int) -> bool:
        """Whether the ticket's answer is being made, or still being sent from its slot."""
        return any(ticket.number == number for ticket in self.filling.values()) or any(
            sent.ticket.number == number for sent in self.sent
        )

    def lent_for(self, number: int) -> messages.BatchReply | None:
        """The answer to this ticket, where the client was given its slot and has not said that it is done with it."""
        return next((reply for reply in self.lent.values() if reply.number == number), None)

    def settle(self, ticket: messages.Ticket) -> None:
        """Free the slots of the tickets that the client is done with."""
        self.oldest = max(self.oldest, ticket.oldest)
        self.done = set((np.frombuffer(ticket.done, "<u4").astype(np.int64) + ticket.oldest).tolist())
        for number in [number for number in self.deaths if self.is_done(number)]:
            del self.deaths[number]
        self.queued.forget(self.is_done)
        for slot, reply in list(self.lent.items()):
            if self.is_done(reply.number):
                del self.lent[slot]
                self.slots.give_back(slot)

    def is_done(self, number: int) -> bool:
        return number < self.oldest or number in self.done

    def begin(self, ticket: messages.Ticket) -> int:
        """A worker is about to fill a slot for this ticket: which."""
        slot = self.slots.take()
        self.filling[slot] = ticket
        self.queued.given(ticket.number)
        self.queued.note_slots(self.slots.free)
        return slot

    def reclaim(self) -> None:
        """Free the slots that the socket has finished with; to be called before tickets are given out."""
        for sent in [sent for sent in self.sent if sent.tracker.done]:
            self.sent.remove(sent)
            self.slots.give_back(sent.slot)
        self.queued.note_slots(self.slots.free)


def credit_for(spec: StreamSpec, batch_size: int, workers: int, stream_bytes: int) -> int:
    """Batches a client may have asked for and not consumed: enough to keep the cores busy, within the memory.

    More workers than cores, all at work, would take turns in the cores' caches and so be slower than few.

    Raises LoaderError where not even one batch fits.
    """
    size = slot_bytes(spec, batch_size)
    credit = min(min(workers, usable_cores()) + 2, stream_bytes // size - SPARE_SLOTS)
    if credit < 1:
        needed_mib = -(-size * (SPARE_SLOTS + 1) // 2**20)
        raise LoaderError(
            f"batches of {batch_size} need {needed_mib} MiB; a stream may take {stream_bytes >> 20} MiB"
            " (alexnet-loader --stream-mib)"
        )
    return credit
