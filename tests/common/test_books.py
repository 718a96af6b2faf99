"""The bookkeeping of both sides together: the client's window against the service's own dispatcher, sessions and pool.

Only the workers' processes and the sockets between client and service are on paper. Messages are lost, repeated and
overtake each other; workers crash; services are restarted; hosts fall silent. Always: no slot is filled again while the
client reads from it. And from any state, once all goes well again, the pass comes to its end: no ticket waits for a
slot that only its own answer would free.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.cli.log import RateLimiter
from common.client.batch import Batch, BatchFormat, BatchRequest, Timeline
from common.client.host import Host as ClientHost
from common.client.window import Window, acknowledgement
from common.spec import StreamInfo
from common.wire import messages
from common.wire.fields import StageTimes
from common.wire.slab import slot_bytes
from loader.dataset import Dataset
from loader.service.dispatch import CRASHES_BY_TICKET, Dispatcher, Payload
from loader.service.session import SPARE_SLOTS, Session
from loader.service.sessions import MemoryLimits, Sessions
from tests.support.paper_service import SPEC, PaperPool, PaperWorker, mark
from tests.support.unserved import unserved

Draw = Callable[[st.SearchStrategy[Any]], Any]
Message = TypeVar("Message", messages.Ticket, messages.BatchReply)

COUNT, TICKETS, WORKERS = 8, 14, 2
HELLO = messages.Hello.of(0, SPEC, digests=False, batch_size=COUNT)
_SHAPE = {"digest": bytes(16), "records": COUNT * TICKETS, "record_bytes": 24_000}
DATASET = cast(Dataset, SimpleNamespace(**_SHAPE, name=lambda _: b""))
BATCHES = BatchFormat(SPEC, StreamInfo(TICKETS * COUNT, ("ape",), np.zeros(0, np.float32), b"", ""), digests=False)
TIMELINE = Timeline(0, 0, StageTimes())


@dataclass(eq=False)
class Host:
    """One service, its channel both ways, and what the client keeps of it."""

    peer: ClientHost  # as the client knows it
    credit: int
    to_service: list[messages.Ticket] = field(default_factory=list)
    to_client: list[messages.BatchReply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin another life of the service: another slab, nothing remembered."""
        memory = MemoryLimits(slot_bytes(SPEC, COUNT) * (self.credit + SPARE_SLOTS), 1 << 30)
        self.pool = PaperPool(WORKERS)
        self.sessions = Sessions({"train": DATASET}, memory, self._ended, self.pool.forget)
        self.dispatcher = Dispatcher(self.pool, self.sessions, self._send, RateLimiter())
        self.session = self.open()
        del self.session._free[self.credit :]  # the credit alone must do
        self.using: set[int] = set()  # as the client knows it, for this slab
        self._hear_workers()  # they are ready

    def open(self) -> Session:
        session, _ = self.sessions.open(b"client", HELLO, workers=8)
        assert session.credit == self.credit
        return session

    def hear(self, ticket: messages.Ticket) -> None:
        self.dispatcher.accept(self.session, ticket)

    def give_out(self) -> None:
        self.dispatcher.give_out()
        self.pool.hear()  # a worker writes from now on

    def finish(self, worker: PaperWorker) -> None:
        worker.finish()
        self._hear_workers()

    def may_crash(self, worker: PaperWorker) -> bool:
        """Return False if that would be the ticket's last retry."""
        assert worker.fill is not None
        return len(self.session.in_slot(worker.fill.places[0].slot).crashes) < CRASHES_BY_TICKET - 1

    def crash(self, worker: PaperWorker) -> None:
        self.pool.crash(worker)
        self._hear_workers()
        self._hear_workers()  # another is ready

    def close(self) -> None:
        self.sessions.end(self.session)
        self.pool.stop()

    def _hear_workers(self) -> None:
        self.dispatcher.take_in(self.pool.heard_from())

    def _ended(self, session: Session) -> None:
        self.dispatcher.forget(session)

    def _send(self, _: bytes, message: messages.Message, __: Payload | None) -> None:
        assert isinstance(message, messages.BatchReply), message
        self.to_client.append(message)


def number_of(batch: Batch) -> int:
    return batch.first // COUNT


def arrival(channel: list[Message], draw: Draw) -> Message | None:
    """Any message of a channel: it is lost (None), arrives, or arrives once more than it was sent."""
    at, fate = (
        draw(st.integers(0, len(channel) - 1)),
        draw(st.sampled_from(["comes", "comes", "comes", "twice", "lost"])),
    )
    message = channel[at] if fate == "twice" else channel.pop(at)
    return None if fate == "lost" else message


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        requests = [BatchRequest(number, 0, number * COUNT, COUNT) for number in range(TICKETS)]
        self.window = Window(iter(requests), BATCHES.empty)
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
            request.number, host.session.address[1], request.epoch, request.first, request.count, True, oldest, done
        )
        host.to_service.append(ticket)

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

    def ticket_arrives(self, host: Host, draw: Draw) -> None:
        if (ticket := arrival(host.to_service, draw)) is not None:
            host.hear(ticket)

    def answer_arrives(self, host: Host, draw: Draw) -> None:
        if (reply := arrival(host.to_client, draw)) is not None:
            self.hear(host, reply)

    # What happens all the time

    @rule(data=st.data(), times=st.integers(1, 16))
    def messages_and_batches_move(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            data.draw(st.sampled_from(self.moves(data.draw)))()
            self.what_the_client_reads_is_not_written_over()

    def moves(self, draw: Draw) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = [self.ask, self.take]
        for host in self.hosts:
            moves += [partial(self.ticket_arrives, host, draw)] * bool(host.to_service)
            moves += [partial(self.answer_arrives, host, draw)] * bool(host.to_client)
            moves += [host.give_out, *(partial(host.finish, worker) for worker in host.pool.busy)]
        return moves

    # The services

    @precondition(lambda self: any(host.pool.busy for host in self.hosts))
    @rule(data=st.data())
    def worker_crashes(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.pool.busy]))
        worker = data.draw(st.sampled_from(host.pool.busy))
        if host.may_crash(worker):
            host.crash(worker)

    @rule(index=st.integers(0, 1))
    def all_goes_well_at_one_host(self, index: int) -> None:
        self.ask()
        self.serve(self.hosts[index % len(self.hosts)])

    def serve(self, host: Host) -> None:
        while host.to_service:
            host.hear(host.to_service.pop(0))
        host.give_out()
        while busy := host.pool.busy:
            host.finish(busy[0])
            host.give_out()
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
        assert host.open() is host.session
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
            assert np.all(batch.images == mark(batch.first)), f"ticket {number_of(batch)} was overwritten while in use"

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
TestBooks.settings = settings(max_examples=80, stateful_step_count=50)
