"""Clients of one paper service, that read streams from their start."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import numpy as np

from common.cli.log import RateLimiter
from common.spec import StreamSpec
from common.wire import messages
from common.wire.slab import slot_bytes
from loader.dataset import Dataset
from loader.service.dispatch import Dispatcher, Payload
from loader.service.session import SPARE_SLOTS, Session
from loader.service.sessions import MemoryLimits, Sessions
from loader.workers import link
from tests.support.paper_service import SPEC, PaperPool, PaperWorker, mark

COUNT, TICKETS, CREDIT = 8, 30, 2
SLOTS = CREDIT + SPARE_SLOTS
SESSION_BYTES = slot_bytes(SPEC, COUNT) * SLOTS
_SHAPE = {"digest": bytes(16), "records": COUNT * TICKETS, "record_bytes": 24_000}
DATASET = cast(Dataset, SimpleNamespace(**_SHAPE, name=lambda _: b""))


@dataclass(eq=False)
class PaperReader:
    """A client that reads a stream from its start, and holds up to CREDIT batches."""

    session: Session
    asked: int = 0
    held: dict[int, int] = field(default_factory=dict)  # slots by ticket
    taken: set[int] = field(default_factory=set)
    decoded: int = 0  # images, for it
    faults: list[messages.Fault] = field(default_factory=list)

    def ticket(self) -> messages.Ticket:
        """The next one; it acknowledges all that is not held or awaited."""
        number, self.asked = self.asked, self.asked + 1
        needed = {each for each in range(self.asked) if each not in self.taken}
        oldest = min(needed)
        done = np.array([each - oldest for each in range(oldest, number) if each not in needed], "<u4").tobytes()
        place = 0, number * COUNT, COUNT
        return messages.Ticket(number, self.session.address[1], *place, True, oldest, done)

    @property
    def may_ask(self) -> bool:
        return self.asked < TICKETS and self.asked - len(self.taken) < CREDIT

    def check(self) -> None:
        for number, slot in self.held.items():
            images = self.session.slab.batch(slot, SPEC, COUNT).images
            assert np.all(images == mark(number * COUNT)), f"ticket {number} was overwritten while in use"

    def release(self, number: int | None = None) -> None:
        """Take a batch, or the one held for longest, and give its slot back with the next ticket."""
        number = min(self.held) if number is None else number
        del self.held[number]
        self.taken.add(number)


class PaperService:
    """One service with room for `sessions` slabs in all, which keeps the images of `kept` splits decoded."""

    def __init__(self, workers: int = 2, sessions: int = 10, kept: tuple[str, ...] = ()) -> None:
        self.pool, self.readers = PaperPool(workers), dict[bytes, PaperReader]()
        limits = MemoryLimits(SESSION_BYTES, SESSION_BYTES * sessions)
        self.sessions = Sessions({"train": DATASET}, limits, self._ended, self.pool.forget)
        self.dispatcher = Dispatcher(
            self.pool, self.sessions, self._send, RateLimiter(), keeps_all=lambda split: split in kept
        )
        self.fills: list[link.Task] = []  # given to workers so far
        self._opened = 0
        self.hear()

    def open(self, spec: StreamSpec = SPEC) -> PaperReader:
        self._opened += 1
        hello = messages.Hello.of(self._opened, spec, digests=False, batch_size=COUNT)
        session, _ = self.sessions.open(b"%d" % self._opened, hello, workers=8)
        assert session.credit == CREDIT
        self.readers[session.address[0]] = reader = PaperReader(session)
        return reader

    def close(self) -> None:
        for session in self.sessions:
            self.sessions.end(session)
        self.pool.stop()

    def leave(self, reader: PaperReader) -> None:
        self.sessions.end(reader.session)
        del self.readers[reader.session.address[0]]

    def ask(self, *readers: PaperReader) -> None:
        """Each asks for its next batch; idle workers begin with what they are given."""
        for reader in readers:
            self.dispatcher.accept(reader.session, reader.ticket())
        self.give_out()

    def give_out(self) -> None:
        before = self.pool.busy
        self.dispatcher.give_out()
        self.pool.hear()
        self.fills += [worker.fill for worker in self.pool.busy if worker not in before and worker.fill is not None]

    def finish(self, worker: PaperWorker | None = None) -> None:
        """Let a worker, or one after the other until all is done, finish."""
        busy = self.pool.busy if worker is None else [worker]
        while busy:
            busy[0].finish()
            self.hear()
            if worker is not None:
                return
            self.give_out()
            busy = self.pool.busy

    def crash(self, worker: PaperWorker) -> None:
        self.pool.crash(worker)
        self.hear()
        self.hear()  # another is ready

    def fail(self, worker: PaperWorker) -> None:
        worker.fail("corrupt", record=3)
        self.hear()

    def hear(self) -> None:
        self.dispatcher.take_in(self.pool.heard_from())

    @property
    def taken_bytes(self) -> int:
        return sum(session.slab.total_bytes for session in self.sessions) + self.sessions.companions.taken_bytes

    def _ended(self, session: Session) -> None:
        self.dispatcher.forget(session)

    def _send(self, identity: bytes, message: messages.Message, _: Payload | None) -> None:
        reader = self.readers[identity]
        if isinstance(message, messages.Fault):
            reader.faults.append(message)
        else:
            assert isinstance(message, messages.BatchReply)
            assert message.number not in reader.held
            assert message.number not in reader.taken
            reader.held[message.number] = message.slot
            reader.decoded += message.decoded
