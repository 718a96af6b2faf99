"""The fair queue of tickets, on paper."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.service.queue import TicketQueue
from loader.service.session import Session
from tests.support.paper_service import paper_session, ticket

Taken = list[tuple[str, int]]


@pytest.fixture
def streams() -> Iterator[list[Session]]:
    """Three of them, `a`, `b` and `c`."""
    with ExitStack() as stack:
        yield [stack.enter_context(paper_session(name)) for name in "abc"]


def name(session: Session) -> str:
    return session.address[0].decode()


def queue_up(queue: TicketQueue, session: Session, *numbers: int, count: int = 8) -> None:
    for number in numbers:
        queue.add(session.admit(ticket(number, count)))


def use_all_slots(session: Session) -> None:
    for number in range(1000, 1000 + session.free_slots):
        session.begin(session.admit(ticket(number)))


def free_all_slots(session: Session) -> None:
    for job in [job for job in session.jobs.values() if job.slot is not None]:
        session.end(job)


def drain(queue: TicketQueue) -> Taken:
    taken = []
    while (job := queue.take()) is not None:
        taken.append((name(job.session), job.ticket.number))
    return taken


def taken_from(queue: TicketQueue, times: int) -> list[str]:
    jobs = [queue.take() for _ in range(times)]
    return [name(job.session) for job in jobs if job is not None]


def test_streams_take_turns_however_long_their_backlogs(streams: list[Session]) -> None:
    queue = TicketQueue()
    queue_up(queue, streams[0], *range(5))
    queue_up(queue, streams[1], 0)
    assert drain(queue)[:3] == [("a", 0), ("b", 0), ("a", 1)]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 128), min_size=1), st.integers(1, 100))
def test_streams_with_backlogs_get_the_same_number_of_images_whatever_their_batches(
    batch_sizes: dict[str, int], takes: int
) -> None:
    queue = TicketQueue()
    images = dict.fromkeys(batch_sizes, 0)
    with ExitStack() as stack:
        for stream, batch_size in batch_sizes.items():
            queue_up(queue, stack.enter_context(paper_session(stream)), *range(takes + 1), count=batch_size)
        for _ in range(takes):
            job = queue.take()
            assert job is not None
            images[name(job.session)] += job.ticket.count
    assert max(images.values()) - min(images.values()) <= max(batch_sizes.values())


def test_a_stream_that_was_away_or_stuck_has_saved_nothing_up(streams: list[Session]) -> None:
    busy, stuck, new = streams
    queue = TicketQueue()
    use_all_slots(stuck)
    queue_up(queue, busy, *range(40))
    queue_up(queue, stuck, *range(40))
    assert taken_from(queue, 20) == ["a"] * 20
    free_all_slots(stuck)
    queue_up(queue, new, *range(10))
    order = taken_from(queue, 9)
    assert [order.count(stream) for stream in "abc"] == [3, 3, 3]


def test_a_stream_without_a_free_slot_holds_up_no_other(streams: list[Session]) -> None:
    stuck, free, _ = streams
    queue = TicketQueue()
    use_all_slots(stuck)
    queue_up(queue, stuck, 0)
    queue_up(queue, free, 1)
    assert drain(queue) == [("b", 1)]
    assert len(queue) == queue.waiting(stuck) == 1


def test_the_job_of_a_crashed_worker_is_next(streams: list[Session]) -> None:
    queue = TicketQueue()
    queue_up(queue, streams[0], 1, 2)
    job = queue.take()
    assert job is not None
    queue.put_back(job)
    assert drain(queue) == [("a", 1), ("a", 2)]


def test_a_client_that_leaves_takes_its_tickets_along(streams: list[Session]) -> None:
    queue = TicketQueue()
    queue_up(queue, streams[0], 1)
    queue.drop(streams[0])
    queue.drop(streams[1])
    assert len(queue) == queue.waiting(streams[0]) == 0
    assert queue.take() is None


def test_jobs_that_are_removed_are_served_to_nobody(streams: list[Session]) -> None:
    queue = TicketQueue()
    queue_up(queue, streams[0], *range(4))
    jobs = streams[0].jobs
    queue.remove([jobs[0], jobs[2]])
    assert drain(queue) == [("a", 1), ("a", 3)]
    queue_up(queue, streams[0], 5)
    queue.remove([jobs[5]])
    assert queue.take() is None
