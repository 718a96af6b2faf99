"""Reading ahead of a stream: each position once, within bounds, and nothing that another host may serve."""

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.service.ahead import MOST_BYTES, SURE, Ahead, Positions
from tests.support.paper_clients import COUNT, PaperService

RECORD_BYTES = MOST_BYTES // 100  # so 100 records ahead at most


def places(taken: list[Positions], records: int) -> list[int]:
    """Positions counted through all epochs."""
    assert all(count > 0 and first >= 0 and first + count <= records for _, first, count in taken)
    return [epoch * records + first + at for epoch, first, count in taken for at in range(count)]


def tickets(records: int, batch: int, epochs: int) -> list[Positions]:
    return [
        (epoch, first, min(batch, records - first)) for epoch in range(epochs) for first in range(0, records, batch)
    ]


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_a_stream_is_read_ahead_once_through_all_epochs(records: int, batch: int, epochs: int, queued: int) -> None:
    ahead, seen, came = Ahead(records, RECORD_BYTES), list[int](), 0
    for number, ticket in enumerate(tickets(records, batch, epochs)):
        ahead.came(*ticket)
        came += ticket[2]
        if number >= queued:  # as many wait for a worker
            taken = ahead.take(2 * batch)
            assert sum(count for _, _, count in taken) <= 2 * batch
            seen += places(taken, records)
            assert len(seen) <= came + 100
    while more := ahead.take(2 * batch):
        seen += places(more, records)
    assert seen == list(range(len(seen)))
    assert came <= len(seen) <= came + 100


def test_what_follows_a_long_run_of_tickets_is_in_the_next_epoch_too() -> None:
    ahead = Ahead(1000, RECORD_BYTES)
    for ticket in tickets(1000, 10, 1):
        ahead.came(*ticket)
        last = ahead.take(1000)
    assert last == [(1, 90, 10)]


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_of_a_stream_with_gaps_only_what_came_is_read_until_they_stay_the_same(ours: list[bool]) -> None:
    ahead, came, seen = Ahead(10_000, RECORD_BYTES), list[int](), list[int]()
    end = gap = in_a_row = 0
    for ticket, is_ours in zip(tickets(10_000, 10, 1), ours, strict=False):
        if not is_ours:
            continue
        _, first, count = ticket
        in_a_row = in_a_row + 1 if first - end == gap else 1
        if in_a_row > SURE:
            return
        gap, end = first - end, first + count
        ahead.came(*ticket)
        came += places([ticket], 10_000)
        seen += places(ahead.take(20), 10_000)
    assert seen == came


@given(st.integers(2, 4), st.integers(0, 3), st.integers(8, 40))
def test_of_a_rank_no_other_rank_s_part_is_read_ahead(ranks: int, rank: int, batch: int) -> None:
    cuts = batch * (rank % ranks) // ranks, batch * (rank % ranks + 1) // ranks
    parts = [(0, number * batch + cuts[0], cuts[1] - cuts[0]) for number in range(100)]
    ahead, seen = Ahead(100 * batch, RECORD_BYTES), list[int]()
    for part in parts[:30]:
        ahead.came(*part)
        seen += places(ahead.take(1000), 100 * batch)
    assert seen == places(parts, 100 * batch)[: len(seen)]
    assert len(seen) > len(places(parts[:30], 100 * batch))


def test_tickets_that_no_worker_was_given_are_not_remembered_for_ever() -> None:
    ahead = Ahead(10**6, RECORD_BYTES)
    for first in range(0, 10**6, 200):
        ahead.came(0, first, 100)
    assert len(ahead.take(10**6)) <= 64


@pytest.mark.parametrize("kept", [(), ("train",)])
def test_a_split_whose_images_are_all_kept_is_not_read_ahead(kept: tuple[str, ...]) -> None:
    with closing(PaperService(kept=kept)) as service:
        service.ask(service.open())
        assert sum(expected.count for expected in service.pool.expected) == (0 if kept else COUNT)
        assert len(service.fills) == 1
