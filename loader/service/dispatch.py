"""From a ticket to its answer: queued, filled by an idle worker into a free slot, sent; or retried, or refused.

A batch is decoded once for all companions that wait for it, and copied for those that come later.
"""

import logging
from collections.abc import Callable, Container, Iterable

from common.cli.log import RateLimiter
from common.wire import messages
from common.wire.slab import SlotBatch
from loader.service.corrupt import CorruptRecords, file_of
from loader.service.counting import Counts
from loader.service.queue import TicketQueue
from loader.service.session import Job, Session, Tracker
from loader.service.sessions import Sessions
from loader.service.shelf import Shelf
from loader.service.verification import Verifications
from loader.workers import link
from loader.workers.pool import Crashed, Finished, WorkerPool, WorkerProcess

log = logging.getLogger(__name__)

CRASHES_BY_RECORD = 3  # workers that may crash over one record before it is reported as corrupt
CRASHES_BY_TICKET = 20
COPIES_PER_DECODE = 16  # in the time that one batch takes
_QUEUED_PER_CREDIT = 4  # tickets of a stream that may be queued, per batch of credit: retries come early
_AHEAD_PER_FILL = 2  # batches that a worker asks the disk for before it fills one

Payload = bytes | memoryview | SlotBatch
Send = Callable[[bytes, messages.Message, Payload | None], Tracker | None]  # to a client


class Dispatcher:
    """Hands tickets to the `pool`; of a split for which `keeps_all` is true no disk is asked for records."""

    def __init__(
        self,
        pool: WorkerPool,
        sessions: Sessions,
        send: Send,
        log_limit: RateLimiter,
        counts: Counts | None = None,
        verifications: Verifications | None = None,
        keeps_all: Callable[[str], bool] = lambda split: False,
    ) -> None:
        self._pool, self._sessions, self._send, self._log_limit = pool, sessions, send, log_limit
        self._corrupt = CorruptRecords()
        self._counts = counts or Counts()
        self._verifications = verifications or Verifications({}, lambda split: None)
        self._keeps_all = keeps_all
        self._queue, self._companions = TicketQueue(), sessions.companions

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
            session.ahead.came(ticket.epoch, ticket.first, ticket.count)

    def give_out(self) -> None:
        for session in self._sessions:
            session.reclaim()
        while (worker := self._pool.idle()) is not None and (job := self._queue.take(self._waits)) is not None:
            if (fault := self._verifications.fault(job.session.spec.split)) is not None:
                self._fail(job, messages.BAD_DATASET, fault, None)
                continue
            self._read_ahead(worker, job.session)
            shelf = self._companions.shelf(job.session)
            if shelf is not None and (source := shelf.begin_copy(job.key)) is not None:
                self._copy(worker, job, shelf, source)
            else:
                self._fill(worker, job, shelf)

    def take_in(self, ready: Container[object]) -> None:
        self._verifications.look()
        for worker in [worker for worker in self._pool.workers if worker.fileno() in ready]:
            if (outcome := self._pool.receive(worker)) is not None:
                self._end(outcome)

    def forget(self, session: Session) -> None:
        self._queue.drop(session)

    # To the workers

    def _waits(self, job: Job) -> bool:
        """Return True while a worker fills the shelf with the job's batch, which is copied then, or while the file is
        verified.
        """
        shelf = self._companions.shelf(job.session)
        filling = shelf is not None and shelf.is_filling(job.key)
        return filling or self._verifications.waits(job.session.spec.split)

    def _read_ahead(self, worker: WorkerProcess, session: Session) -> None:
        """Let a worker ask the disk for what is due, before it waits for any of it."""
        due = session.ahead.take(_AHEAD_PER_FILL * session.batch_size)
        for positions in due if not self._keeps_all(session.spec.split) else ():
            self._pool.expect(worker, link.Expect(session.spec, *positions))

    def _copy(self, worker: WorkerProcess, job: Job, shelf: Shelf, source: link.Place) -> None:
        session, count = job.session, job.ticket.count
        self._queue.charge(session, count // COPIES_PER_DECODE - count)
        copy = link.Copy((session.begin(job),), session.spec, count, source)
        self._pool.give(worker, copy, {session.slab_number: session.slab, source.slab: shelf.slab})

    def _fill(self, worker: WorkerProcess, job: Job, shelf: Shelf | None) -> None:
        """Let a worker decode a batch for a job, for companions that wait for it too, and for the shelf."""
        others = self._companions.of(job.session)
        if self._leads(job, others):
            self._queue.charge(job.session, job.ticket.count)
        jobs = [job, *(each for other in others if (each := self._queue.take_along(other, job.key)) is not None)]
        places = [each.session.begin(each) for each in jobs]
        slabs = {each.session.slab_number: each.session.slab for each in jobs}
        assert job.batch is not None
        job.batch.begin()
        may_come = any(other.latest < job.key for other in others)
        if shelf is not None and may_come and (place := shelf.reserve(job.key)) is not None:
            places.append(place)
            slabs[shelf.number] = shelf.slab
        self._pool.give(worker, link.Fill(tuple(places), job.session.spec, job.session.digests, *job.key), slabs)

    def _leads(self, job: Job, companions: Iterable[Session]) -> bool:
        """Return True if a companion waits for an earlier batch of the epoch: a decode then counts twice, until they
        are together again and share each one.
        """
        firsts = [first for companion in companions if (first := self._queue.first(companion)) is not None]
        return any(first.ticket.epoch == job.ticket.epoch and first.key < job.key for first in firsts)

    # From the workers

    def _end(self, outcome: Finished | Crashed) -> None:
        fill, record = outcome.fill, self._in_progress_record(outcome)
        filled = isinstance(outcome, Finished) and isinstance(outcome.reply, link.Filled)
        if isinstance(outcome, Finished) and isinstance(outcome.reply, link.Filled):
            self._counts.worked(fill, outcome.reply)
        if isinstance(outcome, Finished) and isinstance(outcome.reply, link.Touched):
            self._verifications.touched(fill.spec.split)
        if isinstance(fill, link.Copy) and (shelf := self._companions.shelf_of_slab(fill.source.slab)) is not None:
            shelf.end_copy(fill.source.slot)
        for slab, slot in fill.places:
            if (session := self._sessions.of_slab(slab)) is not None:
                self._end_job(session.in_slot(slot), outcome, record)
            elif (shelf := self._companions.shelf_of_slab(slab)) is not None:
                shelf.end_fill(slot, filled=filled)
            # else the client left while its slot was being filled

    def _end_job(self, job: Job, outcome: Finished | Crashed, record: int | None) -> None:
        if job.session.is_done(job.ticket.number):
            job.session.end(job)
        elif isinstance(outcome, Crashed):
            self._retry(job, outcome.how, record)
        elif isinstance(outcome.reply, link.Touched):
            self._put_back(job)
        elif isinstance(outcome.reply, link.Failed):
            code = messages.BAD_DATASET if outcome.reply.record is None else messages.BAD_RECORD
            self._fail(job, code, outcome.reply.reason, outcome.reply.record)
        else:
            is_first = (job.session.slab_number, job.slot) == outcome.fill.places[0]
            self._answer(job, outcome.fill, outcome.reply, is_first=is_first)

    def _in_progress_record(self, outcome: Finished | Crashed) -> int | None:
        """The record at which a worker crashed, noted in the first place of its fill."""
        slab, slot = outcome.fill.places[0]
        session = self._sessions.of_slab(slab)
        if isinstance(outcome, Finished) or isinstance(outcome.fill, link.Copy) or session is None:
            return None
        batch = session.in_slot(slot).batch
        return batch.in_progress_record() if batch is not None else None

    def _answer(self, job: Job, task: link.Task, filled: link.Filled, *, is_first: bool) -> None:
        session, ticket, batch = job.session, job.ticket, job.batch
        assert job.slot is not None
        assert batch is not None
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
            decoded=filled.decoded if is_first else 0,
        )
        self._counts.answered(job, task, reply, is_first=is_first)  # before: the client may look as soon as it has it
        self._corrupt.replaced(session, reply.replaced)
        if ticket.by_slot:
            job.reply = reply
        job.tracker = self._send(session.address[0], reply, batch)

    def _retry(self, job: Job, how: str, record: int | None) -> None:
        """Requeue the job of a crashed worker, unless it, or one record of it, crashes every worker that takes it."""
        job.crashes.append(record)
        by_record = job.crashes.count(record) if record is not None else 0
        if by_record >= CRASHES_BY_RECORD:
            times = by_record
        elif len(job.crashes) >= CRASHES_BY_TICKET:
            times, record = len(job.crashes), None
        else:
            self._put_back(job)
            return
        where = f"epoch {job.ticket.epoch}, positions {job.ticket.first}.."
        self._fail(job, messages.BAD_RECORD, f"{times} workers ended over {where}, the last {how}", record)

    def _put_back(self, job: Job) -> None:
        job.session.release(job)
        self._queue.put_back(job)

    def _fail(self, job: Job, code: str, reason: str, record: int | None) -> None:
        job.session.end(job)
        if record is not None and (name := file_of(job.session, record)):
            reason = f"{reason}; its file is {name}"
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
