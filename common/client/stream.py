"""One stream of a client: opened with HELLO, asked for in tickets, delivered in order."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from ..errors import LoaderError, LoaderFault, UsageError
from ..ranges import BATCH_SIZES, EPOCHS
from ..spec import DIGEST_USES, DigestUse, StreamInfo, StreamSpec, one_of
from ..wire import messages
from ..wire.fields import Took
from ..wire.slab import KEPT
from .batch import Answer, Batch, batch_of, displaced, is_intact
from .host import Host
from .passes import Pass, epochs_of, places, plan
from .patience import AnswerTimes, Wait
from .served import Services
from .stream_sessions import Loaders, Members, Transport
from .waits import Life
from .window import Window, Work, done_with

log = logging.getLogger(__name__)

OTHERS_S = 2.0  # how long to wait for hosts that say nothing, where those that do speak refuse
DAMAGED_LIMIT = 3  # arrivals of a ticket with wrong digests, before that is an error


class Stream:
    """One stream, open on every service that has answered. `info` says what its data set is.

    Iterating it reads an epoch: the first time epoch 0, then, however far that one was read, the next. `len` is the
    number of batches of an epoch. `batches` reads any epochs, from any position on.

    epoch        that the next loop over the stream reads; to be set to go on from there
    services     the client's
    request      the client's number for this stream
    way          that pixels come
    digests      whether batches carry digests, and whether they are checked

    Raises UsageError for a value of another type or out of its range.
    """

    def __init__(
        self, services: Services, spec: StreamSpec, batch_size: int, request: int, way: Transport, digests: DigestUse
    ) -> None:
        if not isinstance(spec, StreamSpec):
            raise UsageError(f"spec is {spec!r}; it is a StreamSpec")
        self.spec, self.batch_size = spec, BATCH_SIZES.of("batch_size", batch_size)
        self.closed = False
        self._epoch = 0
        self._services, self._owner, self._settled = services, services.owner, services.owner.interruptions
        self._digests = one_of("digests", digests, DIGEST_USES)
        hello = messages.Hello.of(request, spec, digests=digests != "off", batch_size=self.batch_size)
        self._members = Members(services.hosts, services.served, spec, hello, way)
        self._pass: Pass | None = None
        self._window: Window[Host, Answer] | None = None
        self._times = AnswerTimes()
        self._in_use: Batch | None = None
        self._kept: list[Batch] = []  # in slots that are the caller's to give back
        self._numbers = itertools.count()  # of tickets
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
        wait = Wait(f"a {self.spec.split} stream to open", self._services.timeout_s)
        while not self._members:
            self._members.say_hello()
            self._members.raise_if_refused(gone_too=time.monotonic() - wait.started > OTHERS_S)
            self._services.wait(wait)

    def __len__(self) -> int:
        return -(-self.info.records // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches([self.epoch])
        self.epoch += 1
        return batches

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = EPOCHS.of("epoch", epoch)

    def batches(
        self, epochs: Iterable[int], *, first: int = 0, end: int | None = None, lend: bool = False
    ) -> Iterator[Batch]:
        """The batches of whole epochs, in order; `first` is the position at which the first of them begins, `end` one
        before which each of them ends, for a trial.

        Every epoch ends with a smaller batch if the number of records is no multiple of the batch size. Batches are
        the caller's own. With `lend` they are views of the slab if the service is on this host, which saves a copy:
        good until the next one is asked for, or until their `release` if they were kept, KEPT at most.

        A stream is read by one pass at a time: the first batch of this one ends the pass before. Raises UsageError for
        epochs and positions that do not exist; the iterator LoaderFault if a record cannot be delivered, in its turn,
        LoaderTimeout, after which it may be asked again, and LoaderError for more than KEPT batches kept, and for a
        use that `common/client/owner.py` excludes.
        """
        start, stop = places(self.info.records, first, end)
        works = plan(self._numbers, epochs_of(epochs), start, stop, self.batch_size)
        return Pass(self._owner, partial(self._deliver, works), one_of("lend", lend, (True, False)))

    def close(self) -> None:
        """End it, at the services too. A second time changes nothing; nor does it in a process forked since."""
        if not self.closed and not self._owner.is_other_process:
            self._owner.run(self.shut)

    def shut(self) -> None:
        """The same, for the client, whose turn it is."""
        if not self.closed:
            self.closed = True
            self._give_up_pass("the stream was closed")
            self._members.close()

    def __reduce__(self) -> Any:
        raise LoaderError("a stream cannot be pickled or copied: open one in the process that reads")

    def _begin(self, pass_: Pass, works: Iterator[Work]) -> Window[Host, Answer]:
        self._give_up_pass("another pass over the stream began; a second stream would be read beside the first")
        if self._settled != self._owner.interruptions:  # which may have left anything half done
            self._settled = self._owner.interruptions
            for host in [host for host, _ in self._members]:
                self.leave(host)
        window: Window[Host, Answer] = Window(works, displaced)
        for host, opened in self._members:
            window.add_host(host, opened.credit, opened.using)
        self._pass, self._window = pass_, window
        return window

    def _deliver(self, works: Iterator[Work], pass_: Pass) -> Batch | None:
        """The pass's next batch, None after the last."""
        if self.closed:
            raise LoaderError("the stream was closed")
        window = self._window if self._pass is pass_ else self._begin(pass_, works)
        if window is None or window.finished:
            return None
        batch = self._next(window)
        if pass_.lend:
            self._in_use = batch
            return batch
        return batch.own()

    def _give_up_pass(self, why: str) -> None:
        """Nothing of the last pass is wanted any more."""
        self._let_go()
        if self._pass is not None:
            self._pass.end(why)
        for answer in self._window.drain() if self._window is not None else []:
            if isinstance(answer, Batch):
                answer.release()
        self._pass = self._window = None

    def _let_go(self) -> None:
        """The batch that was delivered last is not used any more, unless it was kept."""
        batch, self._in_use = self._in_use, None
        if batch is not None and not batch.kept:
            batch.release()
        self._kept = [each for each in (*self._kept, batch) if each is not None and each.kept]

    def _next(self, window: Window[Host, Answer]) -> Batch:
        self._let_go()
        if len(self._kept) > KEPT:
            raise LoaderError(f"{len(self._kept)} batches are kept: release all but {KEPT} before asking for the next")
        wait = Wait("a batch", self._services.timeout_s)
        self._services.hear()
        while True:
            self._ask(window)
            taken = window.take()
            if taken is not None:
                self._ask(window)
                if isinstance(taken[1], LoaderFault):
                    raise taken[1]
                return taken[1]
            self._members.raise_if_refused()
            work = window.awaited
            wait.awaited = f"epoch {work.epoch}, positions {work.first}.." if work else "a service to come back"
            self._services.wait(wait)
            now = time.monotonic()
            for host, late in window.overdue(now - self._times.overdue_s):
                log.debug("no answer from %s to ticket %d yet; asking again", host.endpoint, late.number)
            while (second := window.ask_second(now, now - self._times.late_s)) is not None:
                log.debug("ticket %d is late; asking %s too", second[1].number, second[0].endpoint)
                self._send(window, *second)

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
        ticket = messages.Ticket(work.number, self.id, work.epoch, work.first, work.count, by_slot, oldest, done)
        if not host.send(ticket, 0 if by_slot else work.count * self.spec.image_bytes):
            self.reopen(host)

    # What services say, told by the client

    def welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> None:
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
            host.send(messages.Bye(self.id))
        self.reopen(host)

    def refused(self, host: Host, fault: messages.Fault) -> None:
        self._members.refused(host, fault)

    def reopen(self, host: Host) -> None:
        """The service lost what it knew of us, or is gone: say HELLO again, and ask elsewhere meanwhile."""
        if self._members.forget(host) and self._window is not None:
            self._window.drop_host(host)

    def ticket_failed(self, host: Host, fault: messages.Fault) -> None:
        if fault.code == messages.UNKNOWN_STREAM:
            self.reopen(host)
        elif self._window is not None and self._window.expects(fault.number):
            if fault.record != messages.NO_RECORD and self._left_out_for(host, fault.record, fault.reason):
                return
            if fault.code == messages.BAD_DATASET and self._left_out(host, fault.reason):
                return
            record = f" (record {fault.record})" if fault.record != messages.NO_RECORD else ""
            self._window.answer(host, fault.number, LoaderFault(f"{host.endpoint}: {fault.reason}{record}"))

    def batch_arrived(self, host: Host, message: messages.BatchReply, payload: memoryview | None) -> None:
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
