"""One stream of a client: opened with HELLO, asked for in tickets, delivered in order."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from common import wire
from common.batch import KEPT, Batch
from common.errors import LoaderError, LoaderFault, LoaderRefused
from common.host import Host, Loaders
from common.lateness import AnswerTimes
from common.members import Members
from common.opened import Transport
from common.received import DigestUse, batch_of, is_intact
from common.spec import StreamInfo, StreamSpec
from common.waits import Life, Took
from common.window import Window, Work

log = logging.getLogger(__name__)

OTHERS_S = 2.0  # how long to wait for hosts that say nothing, where those that do speak refuse
REPORT_S = 5.0  # how often a wait is said
DAMAGED_LIMIT = 3  # arrivals of a ticket with wrong digests, before that is an error

Answer = Batch | LoaderFault


class Stream:
    """One stream, open on every service that has answered. `info` says what its data set is.

    wait, hear   the client's: hear the services once, blocking for a while or not at all
    request      the client's number for this stream
    transport    how pixels come
    digests      whether batches carry digests, and whether they are checked
    """

    def __init__(
        self,
        wait: Callable[[str, float], None],
        hear: Callable[[], None],
        hosts: list[Host],
        spec: StreamSpec,
        batch_size: int,
        request: int,
        transport: Transport,
        digests: DigestUse,
    ) -> None:
        if not 1 <= batch_size <= wire.MAX_COUNT:
            raise LoaderRefused(f"batch size is {batch_size}; it is 1 to {wire.MAX_COUNT}")
        self.spec, self.batch_size = spec, batch_size
        self.closed = False
        self._wait, self._hear, self._digests = wait, hear, digests
        hello = wire.Hello(
            request, spec.split, spec.seed, spec.view, spec.crop, spec.sigma, spec.pixels, spec.on_bad_record,
            spec.shuffle, digests != "off", batch_size,
        )  # fmt: skip
        self._members = Members(hosts, spec, hello, transport)
        self._window: Window[Host, Answer] | None = None
        self._times = AnswerTimes()
        self._in_use: Batch | None = None
        self._kept: list[Batch] = []  # in slots that are the caller's to give back
        self._tickets = 0
        self._damaged: Counter[int] = Counter()  # arrivals by ticket number

    @property
    def id(self) -> bytes:
        return self._members.id

    @property
    def info(self) -> StreamInfo:
        return self._members.info

    @property
    def loaders(self) -> Loaders:
        """Who serves it, at the moment."""
        return self._members.loaders

    def open(self) -> None:
        """Say HELLO everywhere and wait for the first WELCOME; the other services join when they answer."""
        started = time.monotonic()
        while not self._members:
            self._members.say_hello()
            try:
                self._members.raise_if_refused(gone_too=time.monotonic() - started > OTHERS_S)
            except LoaderRefused:
                self.closed = True
                raise
            self._wait(f"a {self.spec.split} stream to open", started)

    def batches(self, epochs: Iterable[int], *, first: int = 0, end: int | None = None) -> Iterator[Batch]:
        """The batches of whole epochs, in order; `first` is the position at which the first of them begins, `end` one
        before which each of them ends, for a trial.

        Every epoch ends with a smaller batch where the number of records is no multiple of the batch size. A batch
        may be used until the next one is asked for, or until its `release` if it was kept. Raises LoaderFault where a
        record cannot be delivered, in its turn, LoaderTimeout, and LoaderError where more than KEPT batches are kept.
        """
        self._give_up_pass()
        window: Window[Host, Answer] = Window(self._plan(epochs, first, end), displaced)
        for host, opened in self._members:
            window.add_host(host, opened.credit, opened.using)
        self._window = window
        while not window.finished:
            yield self._next(window)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._give_up_pass()
            self._members.close()

    def _give_up_pass(self) -> None:
        """Nothing of the last pass is wanted any more."""
        self._let_go()
        for answer in self._window.drain() if self._window is not None else []:
            if isinstance(answer, Batch):
                answer.release()
        self._window = None

    def _let_go(self) -> None:
        """The batch that was delivered last is not used any more, unless it was kept."""
        batch, self._in_use = self._in_use, None
        if batch is not None and not batch.kept:
            batch.release()
        self._kept = [each for each in (*self._kept, batch) if each is not None and each.kept]

    def _plan(self, epochs: Iterable[int], first: int, end: int | None) -> Iterator[Work]:
        end = self.info.records if end is None else min(end, self.info.records)
        for epoch in epochs:
            for position in range(first, end, self.batch_size):
                count = min(self.batch_size, end - position)
                yield Work(self._tickets, epoch, position, count)
                self._tickets += 1
            first = 0

    def _next(self, window: Window[Host, Answer]) -> Batch:
        if self.closed or self._window is not window:
            raise LoaderError("this pass over the stream has ended: the stream was closed, or another pass began")
        self._let_go()
        if len(self._kept) > KEPT:
            raise LoaderError(f"{len(self._kept)} batches are kept: release all but {KEPT} before asking for the next")
        started = reported = time.monotonic()
        self._hear()
        while True:
            self._ask(window)
            taken = window.take()
            if taken is not None:
                self._ask(window)
                if isinstance(taken[1], LoaderFault):
                    raise taken[1]
                self._in_use = taken[1]
                return taken[1]
            self._members.raise_if_refused()
            work = window.awaited
            awaited = f"epoch {work.epoch}, positions {work.first}.." if work else "a service to come back"
            self._wait(awaited, started)
            now = time.monotonic()
            for host, late in window.overdue(now - self._times.overdue_s):
                log.debug("no answer from %s to ticket %d yet; asking again", host.endpoint, late.number)
            while (second := window.ask_second(now, now - self._times.late_s)) is not None:
                log.debug("ticket %d is late; asking %s too", second[1].number, second[0].endpoint)
                self._send(window, *second)
            if now - reported > REPORT_S:
                reported = now
                log.info("waiting for the loader: %s for %.0f s", awaited, now - started)

    def _ask(self, window: Window[Host, Answer]) -> None:
        self._members.say_hello()
        for host, _ in self._members:
            window.set_silent(host, host.silent)
        while (asked := window.ask(time.monotonic())) is not None:
            self._send(window, *asked)

    def _send(self, window: Window[Host, Answer], host: Host, work: Work) -> None:
        opened = self._members[host]
        oldest, done = done_with(window.wanted | opened.using, window.asked_last)
        by_slot = opened.slab is not None
        ticket = wire.Ticket(work.number, self.id, work.epoch, work.first, work.count, by_slot, oldest, done)
        if not host.send(ticket):
            self.reopen(host)

    # What services say, told by the client

    def welcome(self, host: Host, message: wire.Welcome, mean: memoryview) -> None:
        if self.closed:  # the answer to a HELLO of before
            host.send(wire.Bye(message.stream))
            return
        opened = self._members.welcome(host, message, mean)
        if opened is not None and self._window is not None:
            self._window.add_host(host, opened.credit, opened.using)

    def _left_out_for(self, host: Host, record: int, reason: str) -> bool:
        """Leave out a host with a bad record: its disk may be what is bad, and no pixel must depend on who answers."""
        reason = f"its record {record} is bad, as another host's need not be: {reason}"
        return self._left_out(host, f"{reason}; alexnet-pack --info DATA --verify there finds all")

    def _left_out(self, host: Host, reason: str) -> bool:
        """Ask the others instead and return True, unless the host is alone: then it is believed."""
        if len(self._members) == 1:
            return False
        log.warning("%s is left out: %s", host.endpoint, reason)
        self.leave(host)
        self._members.refuse(host, reason)
        return True

    def leave(self, host: Host) -> None:
        """The service is not to be asked any more."""
        if self._members.get(host) is not None:
            host.send(wire.Bye(self.id))
        self.reopen(host)

    def refused(self, host: Host, fault: wire.Fault) -> None:
        self._members.refused(host, fault)

    def reopen(self, host: Host) -> None:
        """The service lost what it knew of us, or is gone: say HELLO again, and ask elsewhere meanwhile."""
        if self._members.forget(host) and self._window is not None:
            self._window.drop_host(host)

    def ticket_failed(self, host: Host, fault: wire.Fault) -> None:
        if fault.code == wire.UNKNOWN_STREAM:
            self.reopen(host)
        elif self._window is not None and self._window.expects(fault.number):
            if fault.record != wire.NO_RECORD and self._left_out_for(host, fault.record, fault.reason):
                return
            if fault.code == wire.BAD_DATASET and self._left_out(host, fault.reason):
                return
            record = f" (record {fault.record})" if fault.record != wire.NO_RECORD else ""
            self._window.answer(host, fault.number, LoaderFault(f"{host.endpoint}: {fault.reason}{record}"))

    def batch_arrived(self, host: Host, message: wire.BatchReply, payload: memoryview | None) -> None:
        work = self._window.expects(message.number) if self._window is not None else None
        opened = self._members.get(host)
        if self._window is None or work is None or opened is None:
            return  # a second answer, or one to a pass that was given up: the next ticket says that it is done with
        pixels = payload if payload is not None else opened.pixels(message, self.spec, work.count)
        life = Life(self._window.asked_since(host, work.number), time.monotonic(), Took(*message.took))
        if (asked_at := self._window.asked_at(host, work.number)) is not None:
            self._times.add(life.arrived_s - asked_at)
        slab, give_back = None, None
        if payload is None:
            slab, give_back = opened.slab, partial(opened.using.discard, work.number)
        batch = batch_of(work, self.spec, self.info, message, pixels, self._digests != "off", life, slab, give_back)
        if self._digests == "verify" and not is_intact(batch):
            self._damaged_on_the_way(host, work)
            return
        if batch.replaced and self._left_out_for(host, batch.replaced[0].record, batch.replaced[0].reason):
            return
        if payload is None:
            opened.using.add(work.number)
        self._window.answer(host, message.number, batch)

    def _damaged_on_the_way(self, host: Host, work: Work) -> None:
        """It counts as not come, so that it is asked for again; but not for ever."""
        assert self._window is not None
        self._damaged[work.number] += 1
        where = f"epoch {work.epoch}, positions {work.first}.."
        log.warning("%s: %s came damaged: its digests are not those of its pixels", host.endpoint, where)
        if self._damaged[work.number] == DAMAGED_LIMIT:
            fault = LoaderFault(f"{host.endpoint}: {where} came damaged {DAMAGED_LIMIT} times; is its memory sound?")
            self._window.answer(host, work.number, fault)


def done_with(needed: set[int], asked_last: int) -> tuple[int, bytes]:
    """What a TICKET says to be done with, all but the `needed` tickets: everything below a number, and some above it,
    up to the one that was asked for last. A displaced answer's number may lie above all that are needed.

    That is said anew with every ticket, and once true it stays true, so a TICKET may be lost or come late or twice.
    Raises LoaderError where that would be more than a TICKET can say.
    """
    oldest = min(needed)
    done = [number - oldest for number in range(oldest, asked_last + 1) if number not in needed]
    if len(done) > wire.MAX_SLOTS:
        raise LoaderError(f"a batch was kept while {len(done)} others came; batch.copy() has its images for so long")
    return oldest, np.array(done, "<u4").tobytes()


def displaced(answer: Answer) -> Answer:
    """The answer outside of its slot, which is given back."""
    if isinstance(answer, LoaderFault):
        return answer
    copy = answer.copy()
    answer.release()
    return copy
