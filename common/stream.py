"""One stream of a client: opened with HELLO, asked for in tickets, delivered in order."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from common import wire
from common.batch import KEPT, Batch
from common.errors import LoaderError, LoaderFault, LoaderRefused, NoSuchSplit, WireError
from common.host import Host, Loaders
from common.lateness import AnswerTimes
from common.opened import Opened, Transport
from common.received import DigestUse, batch_of, is_intact
from common.spec import STORED_SIZE, StreamInfo, StreamSpec
from common.waits import Life, Took
from common.window import Window, Work

log = logging.getLogger(__name__)

HELLO_S = 1.0  # without an answer for so long, HELLO is said again
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

    info: StreamInfo

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
        self.id = b""
        self.closed = False
        self._wait, self._hear, self._hosts, self._request = wait, hear, hosts, request
        self._transport, self._digests = transport, digests
        self._open: dict[Host, Opened] = {}
        self._accepted: set[Host] = set()  # that once served what this stream is of
        self._using: dict[bytes, set[int]] = {}  # tickets whose pixels are read from a slab, by its nonce
        self._refusals: dict[Host, wire.Fault] = {}
        self._hello_sent: dict[Host, float] = {}
        self._window: Window[Host, Answer] | None = None
        self._times = AnswerTimes()
        self._in_use: Batch | None = None
        self._kept: list[Batch] = []  # in slots that are the caller's to give back
        self._tickets = 0
        self._damaged: Counter[int] = Counter()  # arrivals by ticket number

    @property
    def loaders(self) -> Loaders:
        """Who serves it, at the moment."""
        workers, cores = (sum(getattr(host, what) for host in self._open) for what in ("workers", "cores"))
        by_socket = sum(opened.slab is None for opened in self._open.values())
        return Loaders(len(self._open), workers, cores, by_socket)

    def open(self) -> None:
        """Say HELLO everywhere and wait for the first WELCOME; the other services join when they answer."""
        started = time.monotonic()
        while not self._open:
            self._say_hello()
            try:
                self._raise_if_refused(gone_too=time.monotonic() - started > OTHERS_S)
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
        for host, opened in self._open.items():
            window.add_host(host, opened.credit, opened.using)
        self._window = window
        while not window.finished:
            yield self._next(window)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._give_up_pass()
            for host, opened in self._open.items():
                host.send(wire.Bye(self.id))
                opened.close()

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

    def _raise_if_refused(self, *, gone_too: bool = False) -> None:
        """Where every service said no; those that are gone may be waited for, or not."""
        others = [host for host in self._hosts if host not in self._refusals]
        gone = gone_too and all(host.silent or not host.reachable for host in others)
        if not self._refusals or (others and not gone):
            return
        codes = {fault.code for fault in self._refusals.values()}
        told = "; ".join(f"{host.endpoint}: {fault.reason}" for host, fault in self._refusals.items())
        raise NoSuchSplit(told) if codes == {wire.NO_SUCH_SPLIT} else LoaderRefused(told)

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
            self._raise_if_refused()
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
        self._say_hello()
        for host in self._open:
            window.set_silent(host, host.silent)
        while (asked := window.ask(time.monotonic())) is not None:
            self._send(window, *asked)

    def _send(self, window: Window[Host, Answer], host: Host, work: Work) -> None:
        opened = self._open[host]
        oldest, done = done_with(window.wanted | opened.using, window.asked_last)
        by_slot = opened.slab is not None
        ticket = wire.Ticket(work.number, self.id, work.epoch, work.first, work.count, by_slot, oldest, done)
        if not host.send(ticket):
            self.reopen(host)

    def _say_hello(self) -> None:
        """To every service that has not answered, again after a while."""
        if len(self._open) + len(self._refusals) == len(self._hosts):
            return
        spec, now = self.spec, time.monotonic()
        hello = wire.Hello(
            self._request, spec.split, spec.seed, spec.view, spec.crop, spec.sigma, spec.pixels, spec.on_bad_record,
            self._digests != "off", self.batch_size,
        )  # fmt: skip
        for host in self._hosts:
            pending = host not in self._open and host not in self._refusals
            if pending and now - self._hello_sent.get(host, -HELLO_S) >= HELLO_S and host.send(hello):
                self._hello_sent[host] = now

    # What services say, told by the client

    def welcome(self, host: Host, message: wire.Welcome, mean: memoryview) -> None:
        if self.closed:  # the answer to a HELLO of before
            host.send(wire.Bye(message.stream))
            return
        if len(mean) != STORED_SIZE * STORED_SIZE * 3 * 4:
            raise WireError("WELCOME: the mean image is not float32 256x256x3")
        if message.stream != self.spec.stream_id(message.digest, self._request):
            raise WireError("WELCOME: it is to another stream")
        if self.id and (message.stream != self.id or message.decoder != self.info.decoder):
            self._refuse(host, message)
            return
        if not self.id:
            mean_hwc = np.frombuffer(mean, np.float32).reshape(STORED_SIZE, STORED_SIZE, 3)
            self.info = StreamInfo(message.records, tuple(message.classes), mean_hwc, message.digest, message.decoder)
            self.id = message.stream
        if host in self._open:
            if self._open[host].nonce == message.slab_nonce:
                return  # said twice
            self._open[host].close()
        # The slab may be one that we left on a word that came late, and still read from.
        self._using = {nonce: using for nonce, using in self._using.items() if using}
        using = self._using.setdefault(message.slab_nonce, set())
        self._accepted.add(host)
        self._open[host] = opened = Opened.by(host, message, self._transport, using)
        if self._window is not None:
            self._window.add_host(host, opened.credit, using)

    def _refuse(self, host: Host, message: wire.Welcome) -> None:
        """A service that serves something else ends the run at its start, and is left out later."""
        reason = (
            f"it serves data set {message.digest.hex()} with decoder {message.decoder}, not"
            f" {self.info.digest.hex()} with {self.info.decoder}: hosts must serve the same"
        )
        host.send(wire.Bye(message.stream))
        if host.from_start and host not in self._accepted:
            raise LoaderRefused(f"{host.endpoint}: {reason}")
        log.warning("%s is left out: %s", host.endpoint, reason)
        self._refusals[host] = wire.Fault(self._request, b"", wire.REFUSED, reason, wire.NO_RECORD)

    def _left_out(self, host: Host, record: int, reason: str) -> bool:
        """Whether others are asked instead of a host with a bad record: its disk may be what is bad, and no pixel must
        depend on who answers. A host that is alone is believed.
        """
        if len(self._open) == 1:
            return False
        reason = f"its record {record} is bad, as another host's need not be: {reason}"
        log.warning("%s is left out: %s; alexnet-pack --info DATA --verify there finds all", host.endpoint, reason)
        self.leave(host)
        self._refusals[host] = wire.Fault(self._request, b"", wire.REFUSED, reason, wire.NO_RECORD)
        return True

    def leave(self, host: Host) -> None:
        """The service is not to be asked any more."""
        if host in self._open:
            host.send(wire.Bye(self.id))
        self.reopen(host)

    def refused(self, host: Host, fault: wire.Fault) -> None:
        self._refusals[host] = fault

    def reopen(self, host: Host) -> None:
        """The service lost what it knew of us, or is gone: say HELLO again, and ask elsewhere meanwhile."""
        self._hello_sent.pop(host, None)
        self._refusals.pop(host, None)
        opened = self._open.pop(host, None)
        if opened is not None:
            opened.close()
            if self._window is not None:
                self._window.drop_host(host)

    def ticket_failed(self, host: Host, fault: wire.Fault) -> None:
        if fault.code == wire.UNKNOWN_STREAM:
            self.reopen(host)
        elif self._window is not None and self._window.expects(fault.number):
            if fault.record != wire.NO_RECORD and self._left_out(host, fault.record, fault.reason):
                return
            record = f" (record {fault.record})" if fault.record != wire.NO_RECORD else ""
            self._window.answer(host, fault.number, LoaderFault(f"{host.endpoint}: {fault.reason}{record}"))

    def batch_arrived(self, host: Host, message: wire.BatchReply, payload: memoryview | None) -> None:
        work = self._window.expects(message.number) if self._window is not None else None
        opened = self._open.get(host)
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
        if batch.replaced and self._left_out(host, batch.replaced[0].record, batch.replaced[0].reason):
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
