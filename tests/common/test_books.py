"""The books of both sides together: the client's window, the service's ticket queue and slot table, on paper.

Messages between them are lost, repeated and overtake each other; workers die; services are restarted; hosts fall
silent. Always: no slot is filled again while the client reads from it. And from any state, once all goes well again,
the pass comes to its end: no ticket waits for a slot that only its own answer would free.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.client.batch import Batch, BatchFormat, BatchRequest, Timeline
from common.client.host import Host as ClientHost
from common.client.window import Window, acknowledgement
from common.spec import StreamInfo, StreamSpec
from common.wire import messages
from common.wire.fields import StageTimes
from loader.dataset import Dataset
from loader.service.queue import TicketQueue
from loader.service.session import SPARE_SLOTS, Session
from tests.support.unserved import unserved

SPEC = StreamSpec(crop=1)
STREAM = bytes(16)
TICKETS, COUNT = 14, 8
BATCHES = BatchFormat(SPEC, StreamInfo(TICKETS * COUNT, ("ape",), np.zeros(0, np.float32), b"", ""), digests=False)
TIMELINE = Timeline(0, 0, StageTimes())
ADDRESS = (b"client", STREAM)


@dataclass(eq=False)
class Host:
    """One service, its channel both ways, and what the client keeps of it."""

    peer: ClientHost  # as the client knows it
    credit: int
    session: Session = field(init=False)
    queue: TicketQueue[tuple[bytes, bytes]] = field(init=False)
    to_service: list[messages.Ticket] = field(default_factory=list)
    to_client: list[messages.BatchReply] = field(default_factory=list)
    using: set[int] = field(init=False)  # as the client knows it, for this slab

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new run of the service: another slab, nothing remembered."""
        self.session = Session(ADDRESS, SPEC, cast(Dataset, None), 8, False, self.credit, 0)
        for _ in range(SPARE_SLOTS):
            self.session.slots.take()  # the credit alone must do
        self.queue, self.using = TicketQueue(), set()

    def hear(self, ticket: messages.Ticket) -> None:
        """What the service does with a TICKET."""
        self.session.settle(ticket)
        self.queue.cancel(ADDRESS, self.session.is_done)
        if (reply := self.session.lent_for(ticket.number)) is not None:
            self.to_client.append(reply)
        elif not self.session.has(ticket.number) and not self.session.is_done(ticket.number):
            self.queue.add(ADDRESS, ticket)

    def give_out(self) -> None:
        if (taken := self.queue.take(lambda _: self.session.slots.free > 0)) is not None:
            slot = self.session.slots.take()
            self.session.filling[slot] = taken[1]
            self.session.slab.batch(slot, SPEC, taken[1].count).images[:] = taken[1].number  # as the worker does

    def finish(self, slot: int) -> None:
        ticket = self.session.filling.pop(slot)
        if self.session.is_done(ticket.number):
            self.session.slots.abandon(slot)
            return
        self.session.slots.lend(slot)
        labels = ticket.count * b"\0\0\0\0"
        reply = messages.BatchReply(
            ticket.number, STREAM, labels, labels, slot, self.session.slab.nonce, b"", [], [0] * 5
        )
        self.session.lent[slot] = reply
        self.to_client.append(reply)

    def lose(self, slot: int) -> None:
        """A worker died."""
        self.queue.put_back(ADDRESS, self.session.filling.pop(slot))
        self.session.slots.abandon(slot)

    def close(self) -> None:
        self.session.slab.close()


def number_of(batch: Batch) -> int:
    return batch.first // COUNT


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        requests = [BatchRequest(number, 0, number * COUNT, COUNT) for number in range(TICKETS)]
        self.window = Window(iter(requests))
        self.hosts = [Host(unserved("a"), 1), Host(unserved("b"), 3)]
        for host in self.hosts:
            self.window.add_host(host.peer, host.credit)
        self.in_use: Batch | None = None
        self.taken: list[int] = []
        self.now = 0.0

    # The client

    def send(self, peer: ClientHost, request: BatchRequest) -> None:
        [host] = [host for host in self.hosts if host.peer is peer]
        oldest, done = acknowledgement(self.window.wanted | host.using, self.window.requested_last)
        ticket = messages.Ticket(
            request.number, STREAM, request.epoch, request.first, request.count, True, oldest, done
        )
        host.to_service.append(ticket)

    @rule()
    def ask(self) -> None:
        self.now += 1
        while (asked := self.window.request(self.now)) is not None:
            self.send(*asked)

    @rule()
    def ask_second(self) -> None:
        while (asked := self.window.hedge(self.now, self.now)) is not None:
            self.send(*asked)

    @rule()
    def all_is_overdue(self) -> None:
        self.window.expire(self.now + 1)

    @rule(index=st.integers(0, 1), silent=st.booleans())
    def host_falls_silent_or_speaks(self, index: int, silent: bool) -> None:
        self.window.set_silent(self.hosts[index % len(self.hosts)].peer, silent)

    @rule()
    def take(self) -> None:
        """As `Stream.batches` does: the batch before is given back first."""
        if self.in_use is not None:
            self.in_use.release()
            self.in_use = None
        if (taken := self.window.take()) is not None:
            assert isinstance(taken, Batch)
            self.in_use = taken
            self.taken.append(number_of(taken))

    def hear(self, host: Host, reply: messages.BatchReply) -> None:
        request, slab = self.window.expects(reply.number), host.session.slab
        if request is None or reply.slab != slab.nonce:
            return
        pixels = slab.batch(reply.slot, SPEC, request.count).pixels
        give_back = partial(host.using.discard, reply.number)
        batch = BATCHES.batch(request, reply, pixels, TIMELINE, slab=slab, give_back=give_back)
        host.using.add(reply.number)
        self.window.answer(host.peer, reply.number, batch)

    # The network

    @precondition(lambda self: any(host.to_service for host in self.hosts))
    @rule(data=st.data(), fate=st.sampled_from(["comes", "comes", "comes", "twice", "lost"]))
    def ticket_arrives(self, data: st.DataObject, fate: str) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.to_service]))
        at = data.draw(st.integers(0, len(host.to_service) - 1))
        ticket = host.to_service[at] if fate == "twice" else host.to_service.pop(at)
        if fate != "lost":
            host.hear(ticket)

    @precondition(lambda self: any(host.to_client for host in self.hosts))
    @rule(data=st.data(), fate=st.sampled_from(["comes", "comes", "comes", "twice", "lost"]))
    def answer_arrives(self, data: st.DataObject, fate: str) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.to_client]))
        at = data.draw(st.integers(0, len(host.to_client) - 1))
        reply = host.to_client[at] if fate == "twice" else host.to_client.pop(at)
        if fate != "lost":
            self.hear(host, reply)

    # The services

    @rule(index=st.integers(0, 1))
    def work_is_given_out(self, index: int) -> None:
        self.hosts[index % len(self.hosts)].give_out()

    @precondition(lambda self: any(host.session.filling for host in self.hosts))
    @rule(data=st.data(), dies=st.booleans())
    def worker_finishes_or_dies(self, data: st.DataObject, dies: bool) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.session.filling]))
        slot = data.draw(st.sampled_from(sorted(host.session.filling)))
        (host.lose if dies else host.finish)(slot)

    @rule(index=st.integers(0, 1))
    def all_goes_well_at_one_host(self, index: int) -> None:
        self.ask()
        self.serve(self.hosts[index % len(self.hosts)])

    def serve(self, host: Host) -> None:
        while host.to_service:
            host.hear(host.to_service.pop(0))
        for _ in range(host.credit):
            host.give_out()
        for slot in sorted(host.session.filling):
            host.finish(slot)
        while host.to_client:
            self.hear(host, host.to_client.pop(0))

    @rule(index=st.integers(0, 1))
    def service_is_restarted(self, index: int) -> None:
        host = self.hosts[index % len(self.hosts)]
        host.close()
        host.start()
        self.window.drop_host(host.peer)
        self.window.add_host(host.peer, host.credit)

    @rule(index=st.integers(0, 1))
    def client_opens_the_same_session_again(self, index: int) -> None:
        host = self.hosts[index % len(self.hosts)]
        self.window.drop_host(host.peer)
        self.window.add_host(host.peer, host.credit, host.using)

    @precondition(lambda self: len(self.hosts) > 1)
    @rule(index=st.integers(0, 1))
    def host_leaves_for_ever(self, index: int) -> None:
        host = self.hosts.pop(index)
        self.window.drop_host(host.peer)
        host.close()

    # What always holds

    @invariant()
    def what_the_client_reads_is_not_written_over(self) -> None:
        for batch in (*self.window.held(), *([self.in_use] if self.in_use is not None else [])):
            assert isinstance(batch, Batch)
            assert np.all(batch.images == number_of(batch)), f"ticket {number_of(batch)} was overwritten while in use"

    @invariant()
    def tickets_are_taken_in_order_each_once(self) -> None:
        assert self.taken == list(range(len(self.taken)))

    def teardown(self) -> None:
        """All goes well from now on."""
        for host in self.hosts:
            self.window.set_silent(host.peer, False)
        for _ in range(20 * TICKETS):
            self.window.expire(self.now + 1)
            self.ask()
            for host in self.hosts:
                self.serve(host)
            self.take()
            self.what_the_client_reads_is_not_written_over()
        for host in self.hosts:
            host.close()
        assert self.window.finished, f"only {len(self.taken)} of {TICKETS} tickets were ever taken"
        self.tickets_are_taken_in_order_each_once()


def test_a_displaced_answer_above_all_that_is_wanted_gives_its_slot_back() -> None:
    books = Books()
    books.client_opens_the_same_session_again(index=0)  # so that the other is asked first
    books.ask()
    books.host_leaves_for_ever(index=1)
    assert books.hosts[0].to_service[-1].number > min(books.window.wanted)
    books.teardown()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=50)
