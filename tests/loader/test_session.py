"""A stream's jobs and slots at a service, on paper."""

import gc
import struct
import weakref

from hypothesis import given
from hypothesis import strategies as st

from common.wire import messages
from loader.service.session import SPARE_SLOTS, Job, credit_for
from tests.support.paper_clients import PaperService
from tests.support.paper_service import SPEC, paper_session, ticket


class Now:
    us = 0

    def __call__(self) -> int:
        return self.us


def lend(job: Job) -> None:
    """Note the reply that lends the job's slot, as the dispatcher does."""
    assert job.slot is not None
    job.reply = messages.BatchReply(job.ticket.number, bytes(16), b"", b"", job.slot, b"", b"", [], [], 0)


def test_a_ticket_waits_for_a_slot_if_none_is_free_and_else_for_a_worker() -> None:
    now = Now()
    with paper_session(credit=1, now_us=now) as session:
        first = session.admit(ticket(1))
        now.us = 10
        fillers = [session.admit(ticket(number)) for number in range(100, 100 + session.free_slots)]
        for filler in fillers:
            session.begin(filler)
        now.us = 17
        second = session.admit(ticket(2))
        now.us = 30
        session.end(fillers[0])
        session.end(fillers[1])
        now.us = 35
        session.begin(first)
        session.begin(second)
    assert first.waited_us == (15, 20)
    assert second.waited_us == (5, 13)


def test_a_job_whose_worker_crashed_has_waited_since_its_ticket_came() -> None:
    now = Now()
    with paper_session(now_us=now) as session:
        job = session.admit(ticket(1))
        now.us = 10
        session.begin(job)
        now.us = 50
        session.release(job)
        session.begin(job)
    assert job.waited_us == (50, 0)


def test_an_acknowledged_job_ends_unless_a_worker_is_at_it() -> None:
    with paper_session(credit=3) as session:
        queued, filling, lent, wanted = (session.admit(ticket(number)) for number in (5, 6, 7, 8))
        session.begin(filling)
        session.begin(lent)
        lend(lent)
        free = session.free_slots
        assert session.settle(ticket(9, oldest=5, done=struct.pack("<3I", 0, 1, 2))) == [queued]
        assert list(session.jobs.values()) == [filling, wanted]
        assert session.free_slots == free + 1
        assert [session.is_done(number) for number in (4, 5, 6, 7, 8)] == [True] * 4 + [False]


def test_acknowledgements_that_overtake_each_other_take_nothing_back() -> None:
    with paper_session() as session:
        session.settle(ticket(9, oldest=7))
        session.settle(ticket(8, oldest=3))
        assert session.is_done(6)


@given(ranks=st.integers(1, 65), workers=st.integers(1, 64))
def test_ranks_get_credit_for_all_workers_together_and_none_gets_more_than_one_reader_would(
    ranks: int, workers: int
) -> None:
    alone, each = (credit_for(SPEC, 8, count, workers, 1 << 40) for count in (1, ranks))
    assert alone <= ranks * each <= alone + 3 * ranks
    assert each <= alone


STEPS = st.sampled_from(["admit", "begin", "crash", "lend", "acknowledge", "fail"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 1000)), max_size=60))
def test_no_history_gives_a_slot_to_two_jobs_or_loses_one_or_makes_a_wait_negative(
    history: list[tuple[str, int]],
) -> None:
    now = Now()
    with paper_session(now_us=now) as session:
        for number, (step, pause_us) in enumerate(history):
            now.us += pause_us
            jobs = [*session.jobs.values()]
            queued = [job for job in jobs if job.slot is None]
            filling = [job for job in jobs if job.slot is not None and job.reply is None]
            if step == "admit":
                session.admit(ticket(number))
            elif step == "begin" and queued and session.free_slots:
                session.begin(queued[0])
                assert all(0 <= waited <= now.us for waited in queued[0].waited_us)
            elif step == "crash" and filling:
                session.release(filling[0])
            elif step == "lend" and filling:
                lend(filling[0])
            elif step == "acknowledge":
                session.settle(ticket(number, oldest=number // 2))
            elif step == "fail" and filling:
                session.end(filling[0])
            slots = [job.slot for job in session.jobs.values() if job.slot is not None]
            assert len(set(slots)) == len(slots) == 1 + SPARE_SLOTS - session.free_slots


def test_the_memory_of_a_closed_stream_goes_at_once_whatever_was_being_done_for_it() -> None:
    service = PaperService(workers=1)
    reader = service.open()
    service.ask(reader, reader)
    memory = weakref.ref(reader.session.slab)
    gc.disable()  # it would find it, much later
    try:
        service.leave(reader)
        del reader
        service.finish()
        assert memory() is None
    finally:
        gc.enable()
        service.close()
