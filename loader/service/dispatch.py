"""From a ticket to its answer: handed to an idle worker with a free slot, filled, sent; or tried again, or refused."""

import logging
from collections.abc import Callable

from common.cli.log import RateLimiter
from common.wire import messages
from common.wire.slab import SlotBatch
from loader.service.queue import TicketQueue
from loader.service.session import Address, Sent, Session, Tracker
from loader.service.sessions import Sessions
from loader.workers import link
from loader.workers.pool import Lost, WorkerPool

log = logging.getLogger(__name__)

DEATHS_BY_RECORD = 3  # of workers that were at the same record, before it is reported instead of tried again
DEATHS_BY_TICKET = 20  # of workers that were at one ticket

Payload = bytes | memoryview | SlotBatch
Send = Callable[[bytes, messages.Message, Payload | None], Tracker | None]  # to a client


class Work:
    """Takes tickets from `queue`, for the streams that are open, to the workers of `pool`."""

    def __init__(
        self, pool: WorkerPool, sessions: Sessions, queue: TicketQueue[Address], send: Send, log_limit: RateLimiter
    ) -> None:
        self._pool, self._sessions, self._queue, self._send, self._log_limit = pool, sessions, queue, send, log_limit

    def give_out(self) -> None:
        """As far as there are idle workers and free slots."""
        for session in self._sessions:
            session.reclaim()
        while (worker := self._pool.idle()) is not None:
            taken = self._queue.take(lambda address: self._sessions[address].slots.free > 0)
            if taken is None:
                return
            address, ticket = taken
            session, spec = self._sessions[address], self._sessions[address].spec
            slot = session.begin(ticket)
            session.slab.batch(slot, spec, ticket.count).begin()
            where = ticket.epoch, ticket.first, ticket.count
            fill = link.Fill(session.slab_number, slot, spec, session.digests, *where)
            self._pool.give(worker, fill, session.slab)

    def take_in(self, ready: set[int]) -> None:
        """What the workers have to say whose file descriptors are among `ready`."""
        for worker in [worker for worker in self._pool.workers if worker.fileno() in ready]:
            outcome = self._pool.receive(worker)
            session = self._sessions.of_slab(outcome.fill.slab) if outcome else None
            if outcome is None or session is None:
                continue  # the client left while its slot was being filled
            ticket = session.filling.pop(outcome.fill.slot)
            if isinstance(outcome, Lost):
                self._retry(session, ticket, outcome)
            elif isinstance(outcome.outcome, link.Failed):
                session.slots.abandon(outcome.fill.slot)
                code = messages.BAD_DATASET if outcome.outcome.record == messages.NO_RECORD else messages.BAD_RECORD
                self.fault(session, ticket, code, outcome.outcome.reason, outcome.outcome.record)
            elif session.is_done(ticket.number):
                session.slots.abandon(outcome.fill.slot)
            else:
                self._answer(session, ticket, outcome.fill.slot, outcome.outcome)

    def fault(
        self, session: Session, ticket: messages.Ticket, code: str, reason: str, record: int = messages.NO_RECORD
    ) -> None:
        """Answer that there is no batch to this ticket, and why."""
        session.queued.answered(ticket.number)
        if self._log_limit.allows(f"{session.name} {code}", times=10):
            log.warning("stream %s, ticket %d: %s", session.name, ticket.number, reason)
        self._send(session.address[0], messages.Fault(ticket.number, ticket.stream, code, reason[:1024], record), None)

    def _answer(self, session: Session, ticket: messages.Ticket, slot: int, filled: link.Filled) -> None:
        batch = session.slab.batch(slot, session.spec, ticket.count)
        session.deaths.pop(ticket.number, None)
        session.slots.lend(slot)
        reply = messages.BatchReply(
            ticket.number, ticket.stream, batch.notes["record"].tobytes(), batch.notes["label"].tobytes(),
            slot if ticket.by_slot else messages.NO_SLOT, session.slab.nonce if ticket.by_slot else b"",
            batch.notes["digest"].tobytes() if session.digests else b"", batch.replaced(ticket.first),
            [*session.queued.answered(ticket.number), filled.read_us, filled.decode_us, filled.augment_us],
        )  # fmt: skip
        tracker = self._send(session.address[0], reply, batch)
        if ticket.by_slot:
            session.lent[slot] = reply
        elif tracker is not None:
            session.sent.append(Sent(ticket, slot, tracker))

    def _retry(self, session: Session, ticket: messages.Ticket, lost: Lost) -> None:
        """Let another worker do it, unless the ticket, or one record of it, ends every worker that takes it."""
        record = session.slab.batch(lost.fill.slot, session.spec, ticket.count).begun_last()
        session.slots.abandon(lost.fill.slot)
        deaths = session.deaths.setdefault(ticket.number, [])
        deaths.append(record)
        by_record = deaths.count(record) if record is not None else 0
        if by_record < DEATHS_BY_RECORD and len(deaths) < DEATHS_BY_TICKET:
            self._queue.put_back(session.address, ticket)
            return
        del session.deaths[ticket.number]
        times = by_record if by_record >= DEATHS_BY_RECORD else len(deaths)
        reason = f"{times} workers ended over epoch {ticket.epoch}, positions {ticket.first}.., the last {lost.how}"
        culprit = record if by_record >= DEATHS_BY_RECORD else None
        self.fault(session, ticket, messages.BAD_RECORD, reason, messages.NO_RECORD if culprit is None else culprit)
