"""The client's books: every ticket once, in order, whatever hosts do; and nothing ever waits for itself."""

import itertools
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.client.batch import Batch, BatchRequest
from common.client.host import Host
from common.client.window import HEDGE_SHARE, HEDGES_FREE, Window
from tests.support.unserved import unserved

HOSTS = [unserved("a"), unserved("b"), unserved("c")]
NO_IMAGES, NO_NUMBERS = np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64)


def window_of(tickets: int, empty: Collection[int] = ()) -> Window:
    """A window on so many tickets, those in `empty` for no images."""
    plan = [BatchRequest(number, 0, number * 8, 0 if number in empty else 8) for number in range(tickets)]
    return Window(iter(plan), lambda request: answer(request.number))


def answer(number: int, give_back: Callable[[], None] = lambda: None) -> Batch:
    return Batch(0, number, NO_IMAGES, NO_NUMBERS, NO_NUMBERS, give_back=give_back)


def number_of(taken: object) -> int:
    assert isinstance(taken, Batch)
    return taken.first


class Disturbed(RuleBasedStateMachine):
    """A window whose hosts answer in any order, are late, fall silent, speak again, leave and return."""

    def __init__(self) -> None:
        super().__init__()
        self.window = window_of(12, empty=(3, 4, 8))
        self.credit: dict[Host, int] = {}
        self.by_slab: set[Host] = set()
        self.silent: set[Host] = set()
        self.asked: dict[tuple[Host, int], bool] = {}  # what the window waits for; whether as a second
        self.pending: list[tuple[Host, int]] = []  # asked of a host, unanswered, maybe given up by the window
        self.in_slots: dict[Host, set[int]] = {}  # answers that lie in a host's slots
        self.firsts = self.seconds = 0
        self.taken: list[int] = []
        self.now = 0.0

    def given_back(self, number: int) -> None:
        """The window displaced an answer."""
        for numbers in self.in_slots.values():
            numbers.discard(number)

    def note(self, asked: tuple[Host, BatchRequest], second: bool) -> None:
        host, request = asked
        assert request.count
        assert host in self.credit
        assert host not in self.silent
        assert (host, request.number) not in self.asked
        self.asked[host, request.number] = second
        self.pending.append((host, request.number))
        waiting = sum(other == host for other, _ in self.asked)
        assert waiting + len(self.in_slots[host]) <= self.credit[host]

    def has_credit(self, host: Host) -> bool:
        waiting = sum(other == host for other, _ in self.asked)
        return waiting + len(self.in_slots[host]) < self.credit[host]

    def give_up(self, host: Host) -> None:
        self.asked = {key: second for key, second in self.asked.items() if key[0] != host}

    @rule(host=st.sampled_from(HOSTS), credit=st.integers(1, 3), by_slab=st.booleans())
    def host_joins(self, host: Host, credit: int, by_slab: bool) -> None:
        if host not in self.credit:
            self.credit[host], self.in_slots[host] = credit, set()
            (self.by_slab.add if by_slab else self.by_slab.discard)(host)
            self.window.add_host(host, credit, by_slab=by_slab)

    @precondition(lambda self: self.credit)
    @rule(data=st.data())
    def host_leaves(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(list(self.credit)))
        del self.credit[host], self.in_slots[host]
        self.window.drop_host(host)
        self.silent.discard(host)
        self.give_up(host)
        self.pending = [(other, number) for other, number in self.pending if other != host]

    @precondition(lambda self: self.credit)
    @rule(data=st.data(), silent=st.booleans())
    def host_falls_silent_or_speaks(self, data: st.DataObject, silent: bool) -> None:
        host = data.draw(st.sampled_from(list(self.credit)))
        self.window.set_silent(host, silent)
        (self.silent.add if silent else self.silent.discard)(host)
        if silent:
            self.give_up(host)

    @rule()
    def ask(self) -> None:
        self.now += 1
        before = self.window.wanted
        while (asked := self.window.request(self.now)) is not None:
            is_first = asked[1].number not in before
            if is_first and asked[0] not in self.by_slab:
                assert not any(self.has_credit(host) for host in self.by_slab & self.credit.keys() - self.silent)
            self.firsts += is_first
            self.note(asked, second=False)

    @rule(age=st.integers(0, 3))
    def ask_second(self, age: int) -> None:
        while (asked := self.window.hedge(self.now, self.now - age)) is not None:
            host, request = asked
            others = [other for other, number in self.asked if number == request.number]
            assert len(others) == 1
            assert not [number for other, number in self.asked if other == host]
            self.seconds += 1
            self.note(asked, second=True)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), twice=st.booleans())
    def host_answers(self, data: st.DataObject, twice: bool) -> None:
        host, number = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        for _ in range(1 + twice):
            if self.window.expects(number) is not None:
                waited_for = (host, number) in self.asked
                self.asked = {key: second for key, second in self.asked.items() if key[1] != number}
                self.window.answer(host, number, answer(number, partial(self.given_back, number)))
                if waited_for:
                    self.in_slots[host].add(number)

    @rule()
    def all_is_overdue(self) -> None:
        self.window.expire(self.now + 1)
        self.asked = {}

    @rule()
    def take(self) -> None:
        if (taken := self.window.take()) is not None:
            self.taken.append(number_of(taken))
            for numbers in self.in_slots.values():
                numbers.discard(number_of(taken))

    @invariant()
    def what_was_taken_is_a_prefix_of_the_plan(self) -> None:
        assert self.taken == list(range(len(self.taken)))

    @invariant()
    def work_done_twice_is_bounded(self) -> None:
        assert self.seconds <= HEDGES_FREE + HEDGE_SHARE * self.firsts

    def teardown(self) -> None:
        """From any state, hosts that answer what they are asked bring it to its end."""
        self.host_joins(unserved("a"), 1, by_slab=False)
        for host in self.credit:
            self.window.set_silent(host, False)
        self.silent = set()
        self.all_is_overdue()  # what was asked before is given up
        self.pending, self.by_slab = [], set()  # below nothing is kept of who has credit
        for _ in range(100):
            self.ask()
            for host, number in self.pending:
                if self.window.expects(number) is not None:
                    self.window.answer(host, number, answer(number))
            self.pending, self.asked = [], {}
            self.in_slots = {host: set() for host in self.credit}
            self.take()
        assert self.window.finished
        assert self.taken == list(range(12))


TestDisturbed = Disturbed.TestCase


def test_a_host_has_no_more_asked_and_held_than_its_credit() -> None:
    window = window_of(9)
    window.add_host(unserved("a"), 2)
    assert [window.request(0.0) for _ in range(3)][2] is None
    window.answer(unserved("a"), 1, answer(1))
    assert window.request(0.0) is None  # 1 is held: its turn comes after 0
    window.answer(unserved("a"), 0, answer(0))
    assert window.take() is not None
    assert window.request(0.0) is not None


def test_the_ticket_all_wait_for_is_asked_again_although_the_credit_is_spent_on_what_waits_for_it() -> None:
    window = window_of(9)
    window.add_host(unserved("dying"), 1)
    first = window.request(0.0)
    assert first is not None
    assert first[1].number == 0
    window.add_host(unserved("living"), 2)
    for number in (1, 2):
        assert window.request(0.0) is not None
        window.answer(unserved("living"), number, answer(number))
    window.drop_host(unserved("dying"))
    again = window.request(1.0)
    assert again is not None
    assert (again[0], again[1].number) == (unserved("living"), 0)


def test_a_late_ticket_goes_to_a_host_that_was_not_asked_yet() -> None:
    window = window_of(1)
    window.add_host(unserved("a"), 2)
    window.add_host(unserved("b"), 2)
    first = window.request(0.0)
    window.expire(1.0)
    second = window.request(2.0)
    assert first is not None
    assert second is not None
    assert {first[0], second[0]} == {unserved("a"), unserved("b")}


def test_requests_for_no_images_come_in_their_turn_ask_nobody_and_are_not_read_ahead_for_ever() -> None:
    numbers = itertools.count()
    window = Window(
        (BatchRequest(number, 0, 0, 8 * (number == 1)) for number in numbers),
        lambda request: answer(request.number),
    )
    assert window.request(0.0) is None
    assert number_of(window.take()) == 0  # although there is no host
    window.add_host(unserved("a"), 5)
    asked = window.request(0.0)
    assert asked is not None
    assert [window.request(0.0) for _ in range(9)] == [None] * 9
    assert next(numbers) == 4, "it looks one further than 2"
    assert window.take() is None
    window.answer(unserved("a"), 1, answer(1))
    for number in (1, 2, 3):
        assert number_of(window.take()) == number
        assert window.request(0.0) is None
    assert not window.finished


@pytest.mark.parametrize("tickets", [0, 1])
def test_a_pass_ends(tickets: int) -> None:
    window = window_of(tickets)
    window.add_host(unserved("a"), 1)
    while (asked := window.request(0.0)) is not None:
        window.answer(unserved("a"), asked[1].number, answer(asked[1].number))
        assert window.take() is not None
    assert window.finished


def test_hosts_whose_slab_is_mapped_are_asked_first_and_others_for_what_is_beyond_their_credit() -> None:
    window = window_of(9)
    window.add_host(unserved("remote"), 5)
    window.add_host(unserved("here"), 2, by_slab=True)
    asked = [window.request(0.0) for _ in range(3)]
    assert [each[0] for each in asked if each is not None] == [unserved(name) for name in ("here", "here", "remote")]
    window.set_silent(unserved("here"), True)
    again = window.request(1.0)
    assert again is not None
    assert (again[0], again[1].number) == (unserved("remote"), 0)


def late_window() -> Window:
    """Ticket 0 asked of "slow" at 0 s; "quick" has answered 1 and 2, which is all its credit."""
    window = window_of(9)
    window.add_host(unserved("slow"), 1)
    assert window.request(0.0) is not None
    window.add_host(unserved("quick"), 2)
    for number in (1, 2):
        assert window.request(0.0) is not None
        window.answer(unserved("quick"), number, answer(number))
    return window


def test_a_late_ticket_is_asked_of_an_idle_host_too_and_the_first_answer_wins() -> None:
    window = late_window()
    assert window.request(1.0) is None
    assert window.hedge(1.0, before=0.0) is None  # not late yet
    second = window.hedge(1.0, before=0.5)
    assert second is not None
    assert (second[0], second[1].number) == (unserved("quick"), 0)
    assert window.hedge(9.0, before=8.0) is None  # two have it
    window.answer(unserved("slow"), 0, answer(0))
    assert window.expects(0) is None
    assert [number_of(window.take()), number_of(window.take())] == [0, 1]


def test_hedges_are_rationed() -> None:
    window, hedges = window_of(30), 0
    window.add_host(unserved("slow"), 30)
    while window.request(0.0) is not None:
        pass
    window.add_host(unserved("quick"), 1)
    while (hedge := window.hedge(1.0, before=0.5)) is not None:
        hedges += 1
        window.answer(unserved("quick"), hedge[1].number, answer(hedge[1].number))
        assert window.take() is not None
    assert hedges == int(HEDGES_FREE + 30 * HEDGE_SHARE)


def test_a_host_with_work_of_its_own_is_not_asked_for_a_late_ticket() -> None:
    window = window_of(9)
    for host in HOSTS:
        window.add_host(host, 1)
        assert window.request(0.0) is not None
    assert window.hedge(9.0, before=8.0) is None


def test_a_silent_host_is_asked_nothing_and_its_tickets_go_to_another() -> None:
    window = late_window()
    window.set_silent(unserved("slow"), True)
    again = window.request(1.0)
    assert again is not None
    assert (again[0], again[1].number) == (unserved("quick"), 0)
    window.set_silent(unserved("slow"), False)
    speaks = window.request(2.0)
    assert speaks is not None
    assert speaks[0] == unserved("slow")


def test_a_ticket_asked_again_is_asked_since_the_first_time_unless_its_host_was_away() -> None:
    window = window_of(1)
    window.add_host(unserved("a"), 1)
    window.request(now=1)
    window.expire(before=5)
    window.request(now=5)
    assert (window.requested_since(unserved("a"), 0), window.requested_at(unserved("a"), 0)) == (1, 5)
    window.set_silent(unserved("a"), True)
    assert window.requested_since(unserved("a"), 0) is None
    window.set_silent(unserved("a"), False)
    window.request(now=9)
    assert window.requested_since(unserved("a"), 0) == 9
    window.drop_host(unserved("a"))
    assert window.requested_since(unserved("a"), 0) is None


def test_a_late_answer_of_a_host_that_another_was_asked_after_tells_since_when_it_was_asked() -> None:
    window = window_of(1)
    window.add_host(unserved("a"), 1)
    window.request(now=1)
    window.expire(before=5)
    window.add_host(unserved("b"), 1)
    asked = window.request(now=5)
    assert asked is not None
    assert asked[0] == unserved("b")
    assert (window.requested_since(unserved("a"), 0), window.requested_since(unserved("b"), 0)) == (1, 5)
    window.answer(unserved("a"), 0, answer(0))
    assert window.requested_since(unserved("a"), 0) is window.requested_since(unserved("b"), 0) is None
