"""From a ticket to its answer: queued, filled by an idle worker into a free slot, sent; or retried, or refused."""

import logging
from collections.abc import Callable

from common.cli.log import RateLimiter
from common.wire import messages
from common.wire.slab import SlotBatch
from loader.service.queue import TicketQueue
from loader.service.session import Job, Session, Tracker
from loader.service.sessions import Sessions
from loader.workers import link
from loader.workers.pool import Crashed, WorkerPool

log = logging.getLogger(__name__)

CRASHES_BY_RECORD = 3  # workers that may crash over one record before it is reported as corrupt
CRASHES_BY_TICKET = 20
_QUEUED_PER_CREDIT = 4  # tickets of a stream that may be queued, per batch of credit: retries come early

Payload = bytes | memoryview | SlotBatch
Send = Callable[[bytes, messages.Message, Payload | None], Tracker | None]  # to a client


class Dispatcher:
    def __init__(self, pool: WorkerPool, sessions: Sessions, send: Send, log_limit: RateLimiter) -> None:
        self._pool, self._sessions, self._send, self._log_limit = pool, sessions, send, log_limit
        self._queue = TicketQueue()

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def starved(self) -> bool:
        """True if tickets may wait for slots that a socket reads, whose end wakes nobody up."""
        return self.queued > 0 and any(session.is_sending for session in self._sessions)

    def accept(self, session: Session, ticket: messages.Ticket) -> None:
        self._queue.remove(session.settle(ticket))
        end = ticket.first + ticket.count
        if ticket.count > session.batch_size or end > session.dataset.records:
            self._refuse(session, ticket, f"positions {ticket.first}..{end - 1} are not a batch of this stream")
        elif self._queue.waiting(session) >= _QUEUED_PER_CREDIT * session.credit:
            self._refuse(session, ticket, f"more tickets than the credit of {session.credit} allows")
        elif (job := session.jobs.get(ticket.number)) is not None:
            if job.reply is not None:  # the first reply was lost, or this ticket is late: the slot is the same
                self._send(session.address[0], job.reply, None)
        elif not session.is_done(ticket.number):
            self._queue.add(session.admit(ticket))

    def give_out(self) -> None:
        for session in self._sessions:
            session.reclaim()
        while (worker := self._pool.idle()) is not None and (job := self._queue.take()) is not None:
            session, ticket = job.session, job.ticket
            slot = session.begin(job)
            job.batch.begin()
            place = ticket.epoch, ticket.first, ticket.count
            fill = link.Fill(session.slab_number, slot, session.spec, session.digests, *place)
            self._pool.give(worker, fill, session.slab)

    def take_in(self, ready: set[int]) -> None:
        for worker in [worker for worker in self._pool.workers if worker.fileno() in ready]:
            outcome = self._pool.receive(worker)
            session = self._sessions.of_slab(outcome.fill.slab) if outcome is not None else None
            if outcome is None or session is None:
                continue  # the client left while its slot was being filled
            job = session.in_slot(outcome.fill.slot)
            if session.is_done(job.ticket.number):
                session.end(job)
            elif isinstance(outcome, Crashed):
                self._retry(job, outcome.how)
            elif isinstance(outcome.reply, link.Failed):
                code = messages.BAD_DATASET if outcome.reply.record is None else messages.BAD_RECORD
                self._fail(job, code, outcome.reply.reason, outcome.reply.record)
            else:
                self._answer(job, outcome.reply)

    def forget(self, session: Session) -> None:
        self._queue.drop(session)
        self._pool.forget(session.slab_number)

    def _answer(self, job: Job, filled: link.Filled) -> None:
        session, ticket, batch = job.session, job.ticket, job.batch
        assert job.slot is not None
        reply = messages.BatchReply(
            number=ticket.number,
            stream=ticket.stream,
            records=batch.notes["record"].tobytes(),
            labels=batch.notes["label"].tobytes(),
            slot=job.slot if ticket.by_slot else messages.NO_SLOT,
            slab=session.slab.nonce if ticket.by_slot else b"",
            digests=batch.notes["digest"].tobytes() if session.digests else b"",
            replaced=batch.replaced(ticket.first),
            stages=[*job.waited_us, filled.read_us, filled.decode_us, filled.augment_us],
            decoded=filled.decoded,
        )
        if ticket.by_slot:
            job.reply = reply
        job.tracker = self._send(session.address[0], reply, batch)

    def _retry(self, job: Job, how: str) -> None:
        """Requeue the job of a crashed worker, unless it, or one record of it, crashes every worker that takes it."""
        record = job.batch.in_progress_record()
        job.crashes.append(record)
        by_record = job.crashes.count(record) if record is not None else 0
        if by_record >= CRASHES_BY_RECORD:
            times = by_record
        elif len(job.crashes) >= CRASHES_BY_TICKET:
            times, record = len(job.crashes), None
        else:
            job.session.release(job)
            self._queue.put_back(job)
            return
        where = f"epoch {job.ticket.epoch}, positions {job.ticket.first}.."
        self._fail(job, messages.BAD_RECORD, f"{times} workers ended over {where}, the last {how}", record)

    def _fail(self, job: Job, code: str, reason: str, record: int | None) -> None:
        job.session.end(job)
        self._refuse(job.session, job.ticket, reason, code, record)

    def _refuse(
        self,
        session: Session,
        ticket: messages.Ticket,
        reason: str,
        code: str = messages.REFUSED,
        record: int | None = None,
    ) -> None:
        if self._log_limit.allows(f"{session.name} {code}", times=10):
            log.warning("stream %s, ticket %d: %s", session.name, ticket.number, reason)
        culprit = messages.NO_RECORD if record is None else record
        fault = messages.Fault(ticket.number, ticket.stream, code, reason[: messages.MAX_FAULT_REASON], culprit)
        self._send(session.address[0], fault, None)
