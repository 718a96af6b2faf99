"""One decode for several clients: the service's own dispatcher and shelf; only workers and clients are on paper.

Always: no slot is written to while its client reads from it. And from any state, once all goes well again, every client
that reads gets all its batches, whatever the others do.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.spec import StreamSpec
from common.wire import messages
from loader.service.dispatch import CRASHES_BY_RECORD
from loader.workers import link
from tests.support.paper_clients import COUNT, SESSION_BYTES, SLOTS, TICKETS, PaperReader, PaperService


class Sharing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.service = PaperService(sessions=5)
        self.stopped: set[PaperReader] = set()
        self.crowd: list[PaperReader] = []

    @property
    def readers(self) -> list[PaperReader]:
        return [reader for reader in self.service.readers.values() if reader not in self.crowd]

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def a_client_comes(self) -> None:
        self.service.open()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def a_client_leaves_stops_or_goes_on(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        how = data.draw(st.sampled_from(["leaves", "stops", "stops", "goes on"]))
        self.stopped.discard(reader)
        if how == "leaves":
            self.service.leave(reader)
        elif how == "stops":
            self.stopped.add(reader)

    @precondition(lambda self: len(self.crowd) < 2)
    @rule()
    def another_stream_takes_memory(self) -> None:
        self.crowd.append(self.service.open(StreamSpec(crop=1, seed=len(self.crowd) + 1)))

    @precondition(lambda self: self.crowd)
    @rule()
    def another_stream_gives_memory_back(self) -> None:
        self.service.leave(self.crowd.pop())

    @rule(data=st.data(), times=st.integers(1, 16))
    def batches_move(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            if not (moves := self.moves()):
                return
            data.draw(st.sampled_from(moves))()
            self.what_clients_read_is_not_written_over()

    def moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = [self.service.give_out]
        for reader in self.readers:
            if reader.may_ask and reader not in self.stopped:
                moves.append(partial(self.service.ask, reader))
            if reader.held and reader not in self.stopped:
                moves.append(reader.release)
        return moves + [partial(self.service.finish, worker) for worker in self.service.pool.busy]

    @precondition(lambda self: self.service.pool.busy)
    @rule(data=st.data())
    def a_worker_crashes(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.service.pool.busy))
        assert worker.fill is not None
        places = [(self.service.sessions.of_slab(slab), slot) for slab, slot in worker.fill.places]
        jobs = [session.in_slot(slot) for session, slot in places if session is not None]
        if all(len(job.crashes) < CRASHES_BY_RECORD - 1 for job in jobs):
            self.service.crash(worker)

    @invariant()
    def what_clients_read_is_not_written_over(self) -> None:
        for reader in self.readers:
            reader.check()
            assert not reader.faults

    @invariant()
    def all_memory_is_within_its_limit(self) -> None:
        assert self.service.taken_bytes <= SESSION_BYTES * 5

    def teardown(self) -> None:
        """All goes well from now on, except for the clients that are stopped."""
        going = [reader for reader in self.readers if reader not in self.stopped]
        for _ in range(TICKETS):
            for reader in going:
                while reader.may_ask:
                    self.service.ask(reader)
            self.service.give_out()
            self.service.finish()
            for reader in going:
                reader.check()
                for number in list(reader.held):
                    reader.release(number)
        self.service.close()
        assert [len(reader.taken) for reader in going] == [TICKETS] * len(going)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.fixture
def service() -> Iterator[PaperService]:
    with closing(PaperService()) as service:
        yield service


def fills(service: PaperService) -> list[tuple[type[link.Task], int]]:
    """Each fill so far, with the number of slots."""
    return [(type(fill), len(fill.places)) for fill in service.fills]


def read_alone(service: PaperService, reader: PaperReader, tickets: int) -> None:
    for _ in range(tickets):
        service.ask(reader)
        service.finish()
        reader.release()


def test_a_batch_is_decoded_once_for_all_that_wait_for_it(service: PaperService) -> None:
    readers = [service.open() for _ in range(3)]
    service.ask(*readers)
    service.finish()
    assert fills(service) == [(link.Fill, 3)]
    assert [list(reader.held) for reader in readers] == [[0]] * 3
    assert sorted(reader.decoded for reader in readers) == [0, 0, COUNT]


def test_who_asks_while_it_is_decoded_or_later_is_given_a_copy(service: PaperService) -> None:
    first, second, third = (service.open() for _ in range(3))
    service.ask(first)
    service.ask(second)
    assert fills(service) == [(link.Fill, 2)], "for the client and the shelf, and no second decode"
    service.finish()
    service.ask(third)
    service.finish()
    assert fills(service) == [(link.Fill, 2), (link.Copy, 1), (link.Copy, 1)]
    assert list(second.held) == list(third.held) == [0]
    assert [reader.decoded for reader in (first, second, third)] == [COUNT, 0, 0]


def test_batches_of_other_streams_are_not_shared(service: PaperService) -> None:
    readers = [service.open(), service.open(StreamSpec(crop=1, seed=1)), service.open(StreamSpec(crop=1, sigma=0.2))]
    service.ask(*readers)
    service.finish()
    assert fills(service) == [(link.Fill, 1)] * 3
    assert service.sessions.companions.taken_bytes == 0


@pytest.mark.parametrize("kind", [link.Fill, link.Copy])
def test_what_a_worker_was_at_for_several_when_it_crashed_is_retried_for_all(
    service: PaperService, kind: type[link.Task]
) -> None:
    readers = [service.open() for _ in range(3)]
    if kind is link.Copy:
        read_alone(service, readers.pop(0), 1)
    service.ask(*readers)
    service.crash(service.pool.busy[-1])
    service.give_out()
    service.finish()
    assert fills(service)[-1][0] is kind
    assert [list(reader.held) for reader in readers] == [[0]] * len(readers)


def test_a_record_that_crashes_workers_is_reported_to_all_that_wait(
    service: PaperService,
) -> None:
    readers = [service.open() for _ in range(3)]
    service.ask(*readers)
    for _ in range(CRASHES_BY_RECORD):
        assert not any(reader.faults for reader in readers)
        service.crash(service.pool.busy[0])
        service.give_out()
    assert [[fault.code for fault in reader.faults] for reader in readers] == [[messages.BAD_RECORD]] * 3


def test_a_batch_that_cannot_be_made_fails_for_all_that_wait_and_is_not_kept(service: PaperService) -> None:
    readers = [service.open() for _ in range(3)]
    service.ask(*readers[:2])
    service.fail(service.pool.busy[0])
    assert [[fault.record for fault in reader.faults] for reader in readers] == [[3], [3], []]
    service.ask(readers[2])
    assert fills(service) == [(link.Fill, 3), (link.Fill, 1)]


def test_the_oldest_batch_that_nobody_copies_makes_room(service: PaperService) -> None:
    leader, late = service.open(), service.open()
    read_alone(service, leader, SLOTS)
    service.ask(late)  # a worker begins to copy batch 0
    copying = service.pool.busy[0]
    service.ask(leader)
    service.finish(next(worker for worker in service.pool.busy if worker is not copying))
    service.finish()
    late.check()
    service.ask(late)
    service.finish()
    assert fills(service)[-1] == (link.Fill, 1), "batch 1 made room, and nobody else will ask for it"


def test_a_batch_that_is_being_decoded_makes_no_room(service: PaperService) -> None:
    leader, late = service.open(), service.open()
    service.ask(leader)
    decoding = service.pool.busy[0]
    for number in range(1, SLOTS + 1):
        service.ask(leader)
        service.finish(next(worker for worker in service.pool.busy if worker is not decoding))
        leader.release(number)
    service.finish()
    service.ask(late)
    service.finish()
    assert fills(service)[-1] == (link.Copy, 1)


def test_one_that_is_far_behind_catches_up_and_shares_again() -> None:
    with closing(PaperService(workers=1)) as service:
        leader, late = service.open(), service.open()
        read_alone(service, leader, 2 * SLOTS)
        while leader.asked < TICKETS or late.asked < TICKETS:
            for reader in (leader, late):
                while reader.may_ask:
                    service.ask(reader)
            service.finish(service.pool.busy[0])
            service.give_out()
            for reader in (leader, late):
                while reader.held:
                    reader.release()
        assert fills(service)[-1] == (link.Fill, 2)
        decodes = [fill for fill in service.fills if isinstance(fill, link.Fill)]
        assert len(decodes) < 1.5 * TICKETS, "without it each decodes for itself to the end"


def test_without_memory_for_a_shelf_those_that_wait_at_once_share_still() -> None:
    with closing(PaperService(sessions=2)) as service:
        readers = [service.open(), service.open()]
        assert service.taken_bytes == 2 * SESSION_BYTES
        service.ask(*readers)
        service.finish()
        assert fills(service) == [(link.Fill, 2)]


def test_a_shelf_makes_room_for_a_stream_and_goes_with_the_last_companion() -> None:
    with closing(PaperService(sessions=3)) as service:
        readers = [service.open(), service.open()]
        read_alone(service, readers[0], 1)
        service.ask(readers[1])  # a worker copies from the shelf
        other = service.open(StreamSpec(crop=1, seed=1))
        assert service.taken_bytes == 3 * SESSION_BYTES
        service.finish()
        assert list(readers[1].held) == [0]
        readers[1].check()
        service.leave(other)
        service.leave(readers.pop(0))
        readers.append(service.open())
        assert service.taken_bytes == 3 * SESSION_BYTES
        service.leave(readers.pop())
        assert service.taken_bytes == SESSION_BYTES
