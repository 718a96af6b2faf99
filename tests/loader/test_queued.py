"""The books of what tickets wait for at a service, on paper."""

from hypothesis import given
from hypothesis import strategies as st

from loader.service.queued import QueueTimes


class Now:
    us = 0

    def __call__(self) -> int:
        return self.us


def test_a_ticket_waits_for_a_slot_where_none_is_free_and_else_for_a_worker() -> None:
    now = Now()
    queued = QueueTimes(now)
    queued.note_slots(1)
    queued.come(1)
    now.us = 10
    queued.note_slots(0)
    now.us = 17
    queued.come(2)
    now.us = 30
    queued.note_slots(1)
    now.us = 35
    queued.given(1)
    queued.given(2)
    assert queued.answered(1) == (15, 20)
    assert queued.answered(2) == (5, 13)


def test_slots_that_are_missing_still_count_until_now() -> None:
    now = Now()
    queued = QueueTimes(now)
    queued.note_slots(0)
    now.us = 5
    queued.note_slots(0)
    queued.come(1)
    now.us = 12
    queued.given(1)
    assert queued.answered(1) == (0, 7)


def test_a_ticket_whose_worker_died_has_waited_since_it_came() -> None:
    now = Now()
    queued = QueueTimes(now)
    queued.come(1)
    now.us = 10
    queued.given(1)
    now.us = 50
    queued.come(1)  # put back
    queued.given(1)
    assert queued.answered(1) == (50, 0)


def test_what_nobody_wants_is_forgotten_though_it_is_being_filled() -> None:
    queued = QueueTimes(Now())
    for number in (1, 2, 3):
        queued.come(number)
    queued.given(1)
    queued.forget(lambda number: number < 3)
    queued.given(2)
    assert queued.answered(1) == queued.answered(2) == (0, 0)
    assert queued == QueueTimes(queued.now_us, _came={3: queued._came[3]})


steps = st.lists(
    st.tuples(
        st.sampled_from(["come", "given", "answered", "slots", "forget"]), st.integers(0, 3), st.integers(0, 1000)
    )
)


@given(steps)
def test_no_history_breaks_the_books_or_makes_a_wait_negative(history: list[tuple[str, int, int]]) -> None:
    now = Now()
    queued = QueueTimes(now)
    for what, number, pause_us in history:
        now.us += pause_us
        if what == "slots":
            queued.note_slots(number)
        elif what == "forget":
            queued.forget(lambda other, below=number: other < below)  # type: ignore[misc]
        elif what == "answered":
            assert all(0 <= waited <= now.us for waited in queued.answered(number))
        else:
            getattr(queued, what)(number)
