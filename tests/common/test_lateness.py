"""When an answer counts as late, and when as lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.patience import ReplyTimes, Wait
from common.errors import LoaderTimeout
from tests.support.processes import wait_for


def after(*seconds: float) -> ReplyTimes:
    times = ReplyTimes()
    for of_one in seconds:
        times.add(of_one)
    return times


def test_an_answer_is_late_after_three_times_the_usual_and_overdue_after_ten() -> None:
    times = after(*[0.2] * 20, 9.0)
    assert (times.hedge_after_s, times.retry_after_s) == (0.2 * 3, 2.0)


def test_what_is_quick_is_never_late_at_once() -> None:
    times = after(*[0.001] * 20)
    assert (times.hedge_after_s, times.retry_after_s) == (0.05, 1.0)


def test_nothing_is_said_of_what_was_hardly_seen() -> None:
    assert (
        (after().hedge_after_s, after().retry_after_s)
        == (after(9.0).hedge_after_s, after(9.0).retry_after_s)
        == (1.0, 5.0)
    )


def test_the_latest_answers_count() -> None:
    assert after(*[9.0] * 100, *[0.1] * 64).hedge_after_s < 1


@given(st.lists(st.floats(0, 1000), max_size=100))
def test_a_ticket_is_asked_for_again_within_five_seconds(seconds: list[float]) -> None:
    assert 1.0 <= after(*seconds).retry_after_s <= 5.0


def test_a_reader_with_little_patience_gives_up_a_service_that_only_responds() -> None:
    wait = Wait("a batch", timeout_s=60.0)
    wait.check([])
    with pytest.raises(LoaderTimeout, match="did not deliver a batch .*the limit is 0.001 s, so that other ranks"):
        wait_for("the limit", lambda: wait.check([], patience_s=0.001))
