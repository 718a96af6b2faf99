"""The service: tickets in, batches out. One process, one thread, no pixel touched.

    ROUTER  <- TICKET   queue -> idle worker and free slot -> the worker fills the slot
    ROUTER  -> BATCH    header and the slot's pixels, sent from the slot without a copy

It has no state worth losing: another service, or this one after a restart, answers the same ticket with the same bytes.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping

import zmq

from common.cli.log import RateLimiter
from common.errors import LoaderError, LoaderRefused, NoSuchSplit, UsageError, VersionMismatch, WireError
from common.wire import messages
from common.wire.slab import SlotBatch
from loader.dataset import Dataset
from loader.service.access import Access
from loader.service.counting import Counts
from loader.service.dispatch import Dispatcher, Payload
from loader.service.inbox import Inbox, Request
from loader.service.keeper import Keeper
from loader.service.name_answers import NameAnswers
from loader.service.observing import Observer
from loader.service.resources import usable_cores
from loader.service.session import Session, Tracker
from loader.service.sessions import MemoryLimits, Sessions, Welcomes
from loader.service.signals import STOP, Signals
from loader.service.verification import Verifications
from loader.workers.pool import WorkerPool, WorkerProcess

log = logging.getLogger(__name__)

PROBE_S = 5.0  # how often each client is sent a PONG, to notice those that are gone
_SOON_S = 0.2  # after a connection ended, until ZeroMQ knows which client's that was
_SOON_MS, _IDLE_MS = 2, 50


class Service:
    """Serves `datasets` (by split) with a started `pool`, on a ROUTER socket, to the clients that `access` admits.

    memory   limits of one stream, which bound its credit, and of all
    keeper   of the decoded images that the pool's workers share
    counts   and `observer`: of the figures for --metrics
    """

    def __init__(
        self,
        router: "zmq.Socket[bytes]",
        access: Access,
        datasets: Mapping[str, Dataset],
        decoder: str,
        pool: WorkerPool,
        memory: MemoryLimits,
        keeper: Keeper,
        counts: Counts,
        observer: Observer,
    ) -> None:
        self._router, self._access, self._pool, self._keeper = router, access, pool, keeper
        self._counts, self._observer = counts, observer
        self._decoder = decoder
        self._instance = os.urandom(8)
        self._inbox, self._log_limit, self._welcomes = Inbox(router), RateLimiter(), Welcomes()
        self._sessions = Sessions(datasets, memory, self._ended, pool.forget)
        self._verifications = Verifications(datasets, pool.hand_over_anew)
        self._dispatcher = Dispatcher(
            pool, self._sessions, self._send, self._log_limit, counts, self._verifications, keeper.keeps_all
        )
        self._names = NameAnswers(self._sessions, self._send)
        self._probed = time.monotonic()
        self._poller, self._polled = zmq.Poller(), list[WorkerProcess]()

    def run(self, signals: Signals, on_ready: Callable[[], None], on_hangup: Callable[[], None]) -> None:
        """Serve until a signal to stop comes.

        Calls `on_ready` once, when every worker that could be started can take work, and `on_hangup` after a SIGHUP.
        """
        announced = False
        while True:
            ready = self._wait(signals.fileno())
            came = signals.received() if signals.fileno() in ready else set()
            if came & STOP:
                return
            if signal.SIGCHLD in came:
                self._pool.end_stopped()
            if signal.SIGHUP in came:
                on_hangup()
            if self._access.hear(ready, lambda: self._sessions.clients, self._inbox.emptied):
                self._probed = min(self._probed, time.monotonic() - PROBE_S + _SOON_S)
            if self._router in ready or not self._inbox.emptied:
                self._hear_clients()
            self._names.answer()
            self._dispatcher.take_in(ready)
            for pid in self._pool.end_hung():
                log.warning("worker %d took too long over a ticket and was ended (--worker-timeout)", pid)
            self._pool.staff()
            self._keeper.look(self._pool.tasks)
            self._probe()
            self._dispatcher.give_out()
            self._observer.look(self._sessions, self._dispatcher.queued)
            if not announced and self._pool.all_ready:
                announced = True
                on_ready()

    def close(self) -> None:
        self._verifications.close()
        for session in self._sessions:
            self._sessions.end(session)

    def resize(self, workers: int) -> None:
        """Change the number of workers. Clients reopen the streams whose credit that changes."""
        self._pool.resize(workers)
        for session in self._sessions:
            if session.credit != self._sessions.credit(session.spec, session.batch_size, session.ranks, workers):
                self._sessions.end(session)
                self._unknown(session.address[0], session.address[1], -1)

    # Waiting and hearing

    def _wait(self, wakeup_fd: int) -> set[object]:
        if self._polled != self._pool.workers:
            self._polled = list(self._pool.workers)
            self._poller = zmq.Poller()
            self._poller.register(self._router, zmq.POLLIN)
            for socket in self._access.sockets:
                self._poller.register(socket, zmq.POLLIN)
            for fd in (wakeup_fd, *(worker.fileno() for worker in self._polled)):
                self._poller.register(fd, zmq.POLLIN)
        soon_ms = 0 if self._names.waiting else _SOON_MS if self._dispatcher.starved else _IDLE_MS
        return {source for source, _ in self._poller.poll(soon_ms)}

    def _hear_clients(self) -> None:
        for request in self._inbox.requests():
            try:
                self._hear(request)
            except (LoaderRefused, VersionMismatch) as error:
                code = messages.VERSION_MISMATCH if isinstance(error, VersionMismatch) else messages.NO_ACCESS
                self._ignored(request, error)
                self._send(request.identity, messages.Fault(-1, b"", code, str(error), messages.NO_RECORD))
            except WireError as error:
                self._ignored(request, error)
            except Exception as error:  # a bug of ours that one client found is not the others' end
                self._ignored(request, error)
                log.debug("the message that was ignored", exc_info=True)

    def _hear(self, request: Request) -> None:
        if not self._access.admits(request):
            self._sessions.end_all(request.identity)
            raise LoaderRefused("the public key was taken out of clients/ of its keys (--keys)")
        match messages.decode(request.header.bytes, request.payloads):
            case messages.Hello() as hello:
                self._hello(request.identity, hello)
            case messages.Ticket() as ticket:
                self._ticket(request.identity, ticket)
            case messages.AskNames() as ask:
                self._ask_names(request.identity, ask)
            case messages.Ping():
                self._pong(request.identity)
            case messages.Bye() as bye:
                self._bye(request.identity, bye)
            case other:
                raise WireError(f"a client does not send {other.kind}")

    def _ignored(self, request: Request, error: Exception) -> None:
        self._counts.ignored()
        if self._log_limit.allows(f"{request.address} {type(error)}"):
            log.warning("a message from %s was ignored: %s", request.address, error)

    # What clients say

    def _hello(self, identity: bytes, hello: messages.Hello) -> None:
        try:
            session = self._open(identity, hello)
        except (LoaderError, UsageError) as error:
            code = messages.NO_SUCH_SPLIT if isinstance(error, NoSuchSplit) else messages.REFUSED
            reason = str(error)[: messages.MAX_FAULT_REASON]
            self._send(identity, messages.Fault(hello.request, b"", code, reason, messages.NO_RECORD))
            return
        if not self._welcomes.may_have(identity):
            return
        welcome, mean_hwc = self._welcome(session, hello.request), session.dataset.mean_hwc
        tracker = self._send(identity, welcome, mean_hwc.data.cast("B"))
        if (deaf := self._welcomes.sent(identity, tracker)) is not None:
            self._sessions.end_all(deaf)
            self._access.cut(deaf, "it reads nothing of what it asks for")

    def _welcome(self, session: Session, request: int) -> messages.Welcome:
        dataset, slab = session.dataset, session.slab
        return messages.Welcome(
            request=request,
            stream=session.address[1],
            instance=self._instance,
            records=dataset.records,
            classes=list(dataset.classes),
            digest=dataset.digest,
            decoder=self._decoder,
            workers=self._pool.count,
            cores=usable_cores(),
            credit=session.credit,
            slab_process=os.getpid(),
            slab_fd=slab.fd,
            slab_nonce=slab.nonce,
            slots=slab.slots,
            slot_bytes=slab.size,
        )

    def _ticket(self, identity: bytes, ticket: messages.Ticket) -> None:
        session = self._sessions.get((identity, ticket.stream))
        if session is None:
            self._unknown(identity, ticket.stream, ticket.number)
        else:
            self._dispatcher.accept(session, ticket)

    def _ask_names(self, identity: bytes, ask: messages.AskNames) -> None:
        session = self._sessions.get((identity, ask.stream))
        if session is None:
            self._unknown(identity, ask.stream, ask.number)
        else:
            self._names.ask(session, ask)

    def _unknown(self, identity: bytes, stream: bytes, number: int) -> None:
        self._send(
            identity, messages.Fault(number, stream, messages.UNKNOWN_STREAM, "say HELLO first", messages.NO_RECORD)
        )

    def _pong(self, identity: bytes) -> None:
        self._send(identity, messages.Pong(self._instance, self._pool.count, usable_cores(), self._dispatcher.queued))

    def _bye(self, identity: bytes, bye: messages.Bye) -> None:
        session = self._sessions.get((identity, bye.stream))
        if session is not None:
            self._sessions.end(session)

    # Sessions

    def _open(self, identity: bytes, hello: messages.Hello) -> Session:
        if self._sessions.full:
            self._call_clients()
        session, is_new = self._sessions.open(identity, hello, self._pool.count)
        if (
            is_new
            and not session.dataset.file.in_place()
            and self._log_limit.allows(f"{session.dataset.path} replaced")
        ):
            log.warning("%s was deleted or replaced; what it was is served until a restart", session.dataset.path)
        if is_new and self._log_limit.allows("streams", times=100):
            others = len(self._sessions.companions.of(session))
            log.info(
                "stream %s: %s, batches of %d, credit %d%s",
                session.name, session.spec, session.batch_size, session.credit,
                f", decoded once for it and {others} more" if others else "",
            )  # fmt: skip
        return session

    def _ended(self, session: Session) -> None:
        self._dispatcher.forget(session)
        if self._log_limit.allows("streams", times=100):
            log.info("stream %s closed", session.name)

    def _probe(self) -> None:
        """Send each client a PONG now and then: to one that is gone sending fails, which ends its sessions."""
        now = time.monotonic()
        if now - self._probed > PROBE_S:
            self._probed = now
            self._call_clients()

    def _call_clients(self) -> None:
        for identity in self._sessions.clients:
            self._pong(identity)

    # Sending

    def _send(self, identity: bytes, message: messages.Message, payload: Payload | None = None) -> Tracker | None:
        """Send a message; returns a tracker of the payload, if it has one, or of names.

        Ends the sessions of a client that is gone, or has a thousand messages unread.
        """
        header = messages.encode(message)
        if isinstance(message, messages.Fault):
            self._counts.refused(message)
        try:
            if isinstance(message, messages.NamesReply):
                named = zmq.Frame(header, track=True, copy=False, copy_threshold=0)
                return self._router.send_multipart([identity, named], zmq.NOBLOCK, copy=False, track=True)
            if not message.payloads:
                self._router.send_multipart([identity, header], zmq.NOBLOCK)
                return None
            assert payload is not None
            header = messages.framed(header)
            frame = payload.behind(header) if isinstance(payload, SlotBatch) else header + payload
            return self._router.send_multipart([identity, frame], zmq.NOBLOCK, copy=False, track=True)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._sessions.end_all(identity)
            return None
