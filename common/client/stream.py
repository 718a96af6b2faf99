"""One stream of a client: opened with HELLO, requested with tickets, delivered in order."""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from ..errors import LoaderError, LoaderFault, UsageError
from ..ranges import BATCH_SIZES, EPOCHS, RANKS
from ..spec import DIGEST_USES, DigestUse, StreamInfo, StreamSpec, one_of
from ..wire import messages
from ..wire.fields import StageTimes
from ..wire.slab import KEPT
from .batch import Batch, BatchRequest, Timeline
from .host import Host
from .naming import Naming
from .passes import Pass, epochs_of, places, plan, refuse_fewer_than_ranks, share_of, whole_of
from .patience import ReplyTimes, Wait
from .served import Services
from .stream_sessions import HostSession, Loaders, StreamSessions, Transport
from .unfit_hosts import UnfitHosts
from .window import Window, acknowledgement

log = logging.getLogger(__name__)

OTHERS_S = 2.0  # how long unresponsive hosts are waited for if all others refuse


class Stream:
    """One stream, open on every service that has answered; `info` describes its dataset.

    Iterating it reads one epoch, then the next, however far the last one was read; set `epoch` to choose. `batches`
    reads any epochs, from any position. `len` is the number of batches of an epoch.
    """

    def __init__(
        self,
        services: Services,
        spec: StreamSpec,
        batch_size: int,
        request: int,
        way: Transport,
        digests: DigestUse,
        ranks: int,
    ) -> None:
        if not isinstance(spec, StreamSpec):
            raise UsageError(f"spec is {spec!r}; it is a StreamSpec")
        self.spec, self.batch_size = spec, BATCH_SIZES.of("batch_size", batch_size)
        self.closed = False
        self._epoch = 0
        self._services, self._owner, self._settled = services, services.owner, services.owner.interruptions
        self._digests = one_of("digests", digests, DIGEST_USES)
        hello = messages.Hello.of(
            request, spec, digests=digests != "off", batch_size=self.batch_size, ranks=RANKS.of("ranks", ranks)
        )
        self._sessions = StreamSessions(services.hosts, services.served, spec, hello, way)
        self.naming = Naming(services, self._sessions, self.reopen)
        self._unfit = UnfitHosts(self._sessions, self.leave)
        self._pass: Pass | None = None
        self._window: Window | None = None
        self._times = ReplyTimes()
        self._lent: Batch | None = None  # the last one delivered
        self._kept: list[Batch] = []
        self._numbers = itertools.count()  # of tickets

    @property
    def id(self) -> bytes:
        return self._sessions.id

    @property
    def info(self) -> StreamInfo:
        return self._sessions.info

    @property
    def loaders(self) -> Loaders:
        return self._sessions.loaders

    def open(self) -> None:
        """Send HELLO to all and wait for the first WELCOME."""
        wait = Wait(f"a {self.spec.split} stream to open", self._services.timeout_s)
        while not self._sessions:
            self._sessions.say_hello()
            self._sessions.raise_if_refused(gone_too=time.monotonic() - wait.started > OTHERS_S)
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
        self,
        epochs: Iterable[int],
        *,
        first: int = 0,
        end: int | None = None,
        lend: bool = False,
        share: tuple[int, int] = (0, 1),
        whole: int | None = None,
    ) -> Iterator[Batch]:
        """The batches of `epochs`, in order: the first epoch from position `first` on, each one up to `end`.

        With `share`, (rank, ranks), the rank's parts of batches of `whole` images, equally many for each; a part may
        have no images. Without `whole` batches have `ranks * batch_size`, and none of its parts may be empty.

        With `lend`, those of a service on this host are views of its slab, valid as `Batch` says. The first batch
        of a pass ends the previous pass.

        Raises UsageError for epochs and positions that do not exist. The iterator raises LoaderFault if a record cannot
        be delivered, LoaderTimeout, after which it may be asked again, and LoaderError if more than KEPT are kept.
        """
        start, stop = places(self.info.records, first, end)
        rank, ranks = share_of(share)
        if whole is None:
            whole = ranks * self.batch_size
            refuse_fewer_than_ranks(stop - start, whole, ranks)
            refuse_fewer_than_ranks(stop, whole, ranks)  # of the epochs after the first
        whole = whole_of(whole, self.batch_size, ranks)
        requests = plan(self._numbers, epochs_of(epochs), start, stop, whole, (rank, ranks))
        return Pass(self._owner, partial(self._deliver, requests), one_of("lend", lend, (True, False)))

    def names(self, records: Iterable[int]) -> list[str]:
        """Path of the file that each of `records` was packed from, below its split's folder; "" if it is not known.
        Raises UsageError for a record that does not exist, LoaderTimeout, LoaderRefused.
        """
        return self._owner.run(lambda: self.naming.of(records))

    def close(self) -> None:
        """End the stream, at the services too. Idempotent."""
        if not self.closed and not self._owner.is_other_process:
            self._owner.run(self.shut)

    def shut(self) -> None:
        if not self.closed:
            self.closed = True
            self._give_up_pass("the stream was closed")
            self._sessions.close()

    def __reduce__(self) -> Any:
        raise LoaderError("a stream cannot be pickled or copied: open one in the process that reads")

    def _deliver(self, requests: Iterator[BatchRequest], pass_: Pass) -> Batch | None:
        if self.closed:
            raise LoaderError("the stream was closed")
        window = self._window if self._pass is pass_ else self._begin(pass_, requests)
        if window is None or window.finished:
            return None
        batch = self._next(window)
        if pass_.lend:
            self._lent = batch
            return batch
        return batch.own()

    def _begin(self, pass_: Pass, requests: Iterator[BatchRequest]) -> Window:
        self._give_up_pass("another pass over the stream began; a second stream would be read beside the first")
        if self._settled != self._owner.interruptions:  # which may have left anything half done
            self._settled = self._owner.interruptions
            for host in [host for host, _ in self._sessions]:
                self.leave(host)
        self._pass, self._window = pass_, Window(requests, self._sessions.empty_batch)
        for host, session in self._sessions:
            self._add_host(self._window, host, session)
        return self._window

    def _add_host(self, window: Window, host: Host, session: HostSession) -> None:
        leased = self._sessions.leased(session.nonce)
        window.add_host(host, session.credit, leased, by_slab=session.slab is not None)

    def _give_up_pass(self, why: str) -> None:
        self._release_last()
        if self._pass is not None:
            self._pass.end(why)
        for answer in self._window.held() if self._window is not None else []:
            if isinstance(answer, Batch):
                answer.release()
        self._pass = self._window = None

    def _release_last(self) -> None:
        batch, self._lent = self._lent, None
        if batch is not None and not batch.kept:
            batch.release()
        self._kept = [each for each in (*self._kept, batch) if each is not None and each.kept]

    def _next(self, window: Window) -> Batch:
        self._release_last()
        if len(self._kept) > KEPT:
            raise LoaderError(f"{len(self._kept)} batches are kept: release all but {KEPT} before asking for the next")
        wait = Wait("a batch", self._services.timeout_s)
        self._services.hear()
        self._request(window)
        while (answer := window.take()) is None:
            self._wait(wait, window)
            self._request(window)
        self._request(window)  # with the credit that this one used
        if isinstance(answer, LoaderFault):
            raise answer
        return answer

    def _wait(self, wait: Wait, window: Window) -> None:
        self._sessions.raise_if_refused()
        wait.awaited = str(window.awaited or "a service to come back")
        self._services.wait(wait)
        now = time.monotonic()
        for host, expired in window.expire(now - self._times.retry_after_s):
            log.debug("no answer from %s to ticket %d yet; retrying", host.endpoint, expired.number)
        while (hedge := window.hedge(now, now - self._times.hedge_after_s)) is not None:
            log.debug("ticket %d is late; hedging at %s", hedge[1].number, hedge[0].endpoint)
            self._send(window, *hedge)

    def _request(self, window: Window) -> None:
        self._sessions.say_hello()
        for host, _ in self._sessions:
            window.set_silent(host, host.silent)
        while (next_request := window.request(time.monotonic())) is not None:
            self._send(window, *next_request)

    def _send(self, window: Window, host: Host, request: BatchRequest) -> None:
        session = self._sessions[host]
        needed = window.wanted | self._sessions.leased(session.nonce)
        oldest, done = acknowledgement(needed, window.requested_last)
        by_slot = session.slab is not None
        ticket = messages.Ticket(
            request.number, self.id, request.epoch, request.first, request.count, by_slot, oldest, done
        )
        if not host.send(ticket, 0 if by_slot else request.count * self.spec.image_bytes):
            self.reopen(host)

    # The services' messages, passed on by the client

    def welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> None:
        session = self._sessions.welcome(host, message, mean)
        if session is not None and self._window is not None:
            self._add_host(self._window, host, session)

    def refused(self, host: Host, fault: messages.Fault) -> None:
        self._sessions.refused(host, fault)

    def reopen(self, host: Host) -> None:
        if self._sessions.forget(host) and self._window is not None:
            self._window.drop_host(host)

    def leave(self, host: Host) -> None:
        if self._sessions.get(host) is not None:
            host.send(messages.Bye(self.id))
        self.reopen(host)

    def ticket_failed(self, host: Host, fault: messages.Fault) -> None:
        if fault.code == messages.UNKNOWN_STREAM:
            self.reopen(host)
        elif self._sessions.get(host) is None:
            return  # it was left out for an earlier fault, and its tickets are retried
        elif self._window is not None and self._window.expects(fault.number):
            if fault.record != messages.NO_RECORD and self._unfit.leave_out_for(host, fault.record, fault.reason):
                return
            if fault.code == messages.BAD_DATASET and self._unfit.leave_out(host, fault.reason):
                return
            record = f" (record {fault.record})" if fault.record != messages.NO_RECORD else ""
            self._window.answer(host, fault.number, LoaderFault(f"{host.endpoint}: {fault.reason}{record}"))

    def batch_arrived(self, host: Host, reply: messages.BatchReply, payload: memoryview | None) -> None:
        window, session = self._window, self._sessions.get(host)
        request = window.expects(reply.number) if window is not None else None
        if window is None or request is None or session is None:
            return  # a duplicate, or of a pass that was given up: the next ticket acknowledges it
        timeline = self._account(window, host, reply)
        batch = self._sessions.batch(session, request, reply, payload, timeline)
        if self._digests == "verify" and not batch.is_intact():
            if damaged := self._unfit.fault_after_damage(host, request):
                window.answer(host, request.number, damaged)
            return
        if batch.replaced and self._unfit.leave_out_for(host, batch.replaced[0].record, batch.replaced[0].reason):
            return
        if payload is None:
            self._sessions.lease(session.nonce, request.number)
        window.answer(host, request.number, batch)

    def _account(self, window: Window, host: Host, reply: messages.BatchReply) -> Timeline:
        now = time.monotonic()
        if (requested_at := window.requested_at(host, reply.number)) is not None:
            self._times.add(now - requested_at)
        return Timeline(window.requested_since(host, reply.number), now, StageTimes(*reply.stages), reply.decoded)
