"""The client's books: every ticket once, in order, whatever hosts do; and nothing ever waits for itself."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.window import Window, Work

HOSTS = ["a", "b", "c"]


def plan(tickets: int) -> list[Work]:
    return [Work(number, 0, number * 8, 8) for number in range(tickets)]


class Disturbed(RuleBasedStateMachine):
    """A window whose hosts answer in any order, fall silent, leave and return."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Window[str, int] = Window(iter(plan(12)), self.displace)
        self.displaced: set[int] = set()
        self.credit: dict[str, int] = {}
        self.pending: list[tuple[str, int]] = []  # asked of a host, unanswered
        self.taken: list[int] = []
        self.now = 0.0

    def displace(self, number: int) -> int:
        assert number not in self.displaced
        self.displaced.add(number)
        return number

    @rule(host=st.sampled_from(HOSTS), credit=st.integers(1, 3))
    def host_joins(self, host: str, credit: int) -> None:
        if host not in self.credit:
            self.credit[host] = credit
            self.window.add_host(host, credit)

    @precondition(lambda self: self.credit)
    @rule(data=st.data())
    def host_leaves(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.credit)))
        del self.credit[host]
        self.window.drop_host(host)
        self.pending = [(other, number) for other, number in self.pending if other != host]

    @rule()
    def ask(self) -> None:
        self.now += 1
        while (asked := self.window.ask(self.now)) is not None:
            host, work = asked
            assert host in self.credit
            self.pending.append((host, work.number))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), twice=st.booleans())
    def host_answers(self, data: st.DataObject, twice: bool) -> None:
        host, number = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        for _ in range(1 + twice):
            if self.window.expects(number) is not None:
                self.window.answer(host, number, number)

    @rule()
    def all_is_overdue(self) -> None:
        self.window.overdue(self.now + 1)

    @rule()
    def take(self) -> None:
        if (taken := self.window.take()) is not None:
            self.taken.append(taken[1])

    @invariant()
    def what_was_taken_is_a_prefix_of_the_plan(self) -> None:
        assert self.taken == list(range(len(self.taken)))

    def teardown(self) -> None:
        """From any state, hosts that answer what they are asked bring it to its end."""
        self.host_joins("a", 1)
        self.all_is_overdue()  # silence: what was asked before is given up
        self.pending = []
        for _ in range(100):
            self.ask()
            for host, number in self.pending:
                if self.window.expects(number) is not None:
                    self.window.answer(host, number, number)
            self.pending = []
            self.take()
        assert self.window.finished
        assert self.taken == list(range(12))


TestDisturbed = Disturbed.TestCase


def test_a_host_has_no_more_asked_and_held_than_its_credit() -> None:
    window: Window[str, int] = Window(iter(plan(9)))
    window.add_host("a", 2)
    assert [window.ask(0.0) for _ in range(3)][2] is None
    window.answer("a", 1, 1)
    assert window.ask(0.0) is None  # 1 is held: its turn comes after 0
    window.answer("a", 0, 0)
    assert window.take() is not None
    assert window.ask(0.0) is not None


def test_the_ticket_all_wait_for_is_asked_again_although_the_credit_is_spent_on_what_waits_for_it() -> None:
    window: Window[str, int] = Window(iter(plan(9)))
    window.add_host("dying", 1)
    first = window.ask(0.0)
    assert first is not None
    assert first[1].number == 0
    window.add_host("living", 2)
    for number in (1, 2):
        assert window.ask(0.0) is not None
        window.answer("living", number, number)
    window.drop_host("dying")
    again = window.ask(1.0)
    assert again is not None
    assert (again[0], again[1].number) == ("living", 0)


def test_a_late_ticket_goes_to_a_host_that_was_not_asked_yet() -> None:
    window: Window[str, int] = Window(iter(plan(1)))
    window.add_host("a", 2)
    window.add_host("b", 2)
    first = window.ask(0.0)
    window.overdue(1.0)
    second = window.ask(2.0)
    assert first is not None
    assert second is not None
    assert {first[0], second[0]} == {"a", "b"}


@pytest.mark.parametrize("tickets", [0, 1])
def test_a_pass_ends(tickets: int) -> None:
    window: Window[str, int] = Window(iter(plan(tickets)))
    window.add_host("a", 1)
    while (asked := window.ask(0.0)) is not None:
        window.answer("a", asked[1].number, 0)
        assert window.take() is not None
    assert window.finished
