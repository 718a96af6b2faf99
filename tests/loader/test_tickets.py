"""The queue of tickets and the table of slots, on paper."""

from hypothesis import given
from hypothesis import strategies as st

from common.wire.messages import Ticket
from loader.service.queue import TicketQueue
from loader.service.slots import SlotTable


def ticket(number: int, count: int = 8) -> Ticket:
    return Ticket(number, b"s" * 16, 0, number * count, count, False, 0, b"")


def drain(queue: TicketQueue[str]) -> list[tuple[str, int]]:
    taken = []
    while (next_one := queue.take(lambda _: True)) is not None:
        taken.append((next_one[0], next_one[1].number))
    return taken


def test_streams_take_turns_however_long_their_backlogs() -> None:
    queue: TicketQueue[str] = TicketQueue()
    for number in range(5):
        queue.add("greedy", ticket(number))
    queue.add("modest", ticket(0))
    assert drain(queue)[:3] == [("greedy", 0), ("modest", 0), ("greedy", 1)]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 128), min_size=1), st.integers(1, 100))
def test_streams_with_backlogs_get_the_same_number_of_pictures_whatever_their_batches(
    batch_sizes: dict[str, int], takes: int
) -> None:
    queue: TicketQueue[str] = TicketQueue()
    pictures = dict.fromkeys(batch_sizes, 0)
    for stream, batch_size in batch_sizes.items():
        for number in range(takes + 1):
            queue.add(stream, ticket(number, batch_size))
    for _ in range(takes):
        taken = queue.take(lambda _: True)
        assert taken is not None
        pictures[taken[0]] += taken[1].count
    assert max(pictures.values()) - min(pictures.values()) <= max(batch_sizes.values())


def taken_with(queue: TicketQueue[str], able: str) -> str:
    taken = queue.take(lambda key: key in able)
    assert taken is not None
    return taken[0]


def test_a_stream_that_was_away_or_stuck_has_saved_nothing_up() -> None:
    queue: TicketQueue[str] = TicketQueue()
    for number in range(40):
        queue.add("busy", ticket(number))
        queue.add("stuck", ticket(number))
    assert [taken_with(queue, "busy") for _ in range(20)] == ["busy"] * 20
    for number in range(10):
        queue.add("new", ticket(number))
    order = [taken_with(queue, "busy stuck new") for _ in range(9)]
    assert [order.count(stream) for stream in ("busy", "stuck", "new")] == [3, 3, 3]


def test_a_stream_that_cannot_be_served_holds_up_no_other() -> None:
    queue: TicketQueue[str] = TicketQueue()
    queue.add("stuck", ticket(0))
    queue.add("free", ticket(1))
    taken = queue.take(lambda key: key != "stuck")
    assert taken is not None
    assert taken[0] == "free"
    assert queue.take(lambda key: key != "stuck") is None
    assert len(queue) == 1


def test_asking_again_while_a_ticket_waits_changes_nothing() -> None:
    queue: TicketQueue[str] = TicketQueue()
    for number in (1, 2, 1):
        queue.add("a", ticket(number))
    assert drain(queue) == [("a", 1), ("a", 2)]


def test_the_ticket_of_a_dead_worker_is_served_first() -> None:
    queue: TicketQueue[str] = TicketQueue()
    queue.add("a", ticket(2))
    queue.put_back("a", ticket(1))
    assert drain(queue) == [("a", 1), ("a", 2)]


def test_a_client_that_leaves_takes_its_tickets_along() -> None:
    queue: TicketQueue[str] = TicketQueue()
    queue.add("a", ticket(1))
    queue.drop("a")
    assert len(queue) == queue.waiting("a") == 0
    assert queue.take(lambda _: True) is None


def test_tickets_that_a_client_is_done_with_are_served_to_nobody() -> None:
    queue: TicketQueue[str] = TicketQueue()
    for number in range(4):
        queue.add("a", ticket(number))
    queue.cancel("a", lambda number: number in (0, 2))
    queue.cancel("nobody", lambda _: True)
    assert drain(queue) == [("a", 1), ("a", 3)]
    queue.add("a", ticket(5))
    queue.cancel("a", lambda _: True)
    assert queue.take(lambda _: True) is None


@given(st.lists(st.sampled_from(["take", "lend", "give back", "abandon"]), max_size=60))
def test_a_slot_is_never_in_two_hands(steps: list[str]) -> None:
    table = SlotTable(3)
    filling: list[int] = []
    lent: list[int] = []
    for step in steps:
        if step == "take" and table.free:
            filling.append(table.take())
        elif step == "lend" and filling:
            table.lend(filling[0])
            lent.append(filling.pop(0))
        elif step == "give back" and lent:
            table.give_back(lent.pop(0))
        elif step == "abandon" and filling:
            table.abandon(filling.pop(0))
        assert len({*filling, *lent}) == len(filling) + len(lent) == 3 - table.free
