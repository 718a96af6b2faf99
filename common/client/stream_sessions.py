"""A stream's session with each service: pending, open or refused."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ..errors import LoaderRefused, NoSuchSplit, WireError
from ..malloc import keep_large_blocks
from ..spec import STORED_SIZE, StreamInfo, StreamSpec
from ..wire import messages
from ..wire.slab import Slab, slot_bytes
from .batch import Batch, BatchFormat, BatchRequest, Timeline
from .host import Host
from .served import Served

log = logging.getLogger(__name__)

HELLO_S = 1.0  # HELLO is repeated after so long without an answer

Transport = Literal["auto", "slab", "frames"]
TRANSPORTS = ("auto", "slab", "frames")


@dataclass(frozen=True, slots=True)
class Loaders:
    """The services a stream is open on; `by_socket` of them send pixels over a socket."""

    hosts: int
    workers: int
    cores: int
    by_socket: int


class HostSession:
    """An open session; `slab` is None if pixels come over the socket."""

    def __init__(self, nonce: bytes, credit: int, slab: Slab | None) -> None:
        self.nonce, self.credit, self.slab = nonce, credit, slab

    @classmethod
    def open(cls, host: Host, welcome: messages.Welcome, transport: Transport) -> "HostSession":
        """Map the slab in `welcome` if the transport allows. Raises LoaderRefused if "slab" must and cannot be."""
        slab, way = None, "over the socket"
        if transport != "frames":
            try:
                slab = Slab.of_process(
                    welcome.slab_process, welcome.slab_fd, welcome.slot_bytes, welcome.slots, welcome.slab_nonce
                )
                way = "through shared memory"
            except OSError as error:
                if transport == "slab":
                    raise LoaderRefused(f"the slab of {host.endpoint} cannot be mapped: {error}") from None
                way = f"over the socket ({error})"
            host.note_transport(way)
        if slab is None:
            keep_large_blocks()
        return cls(welcome.slab_nonce, welcome.credit, slab)

    def slot_pixels(self, reply: messages.BatchReply, spec: StreamSpec, count: int) -> memoryview:
        """Raises WireError if there is no such slot."""
        if self.slab is None or not 0 <= reply.slot < self.slab.slots:
            raise WireError(f"BATCH: there is no slot {reply.slot}")
        if reply.slab != self.nonce:
            raise WireError("BATCH: its slot is of a slab that was closed")
        if slot_bytes(spec, count) > self.slab.size:
            raise WireError(f"BATCH: {count} images are more than a slot holds")
        return self.slab.pixels(reply.slot, spec, count)

    def close(self) -> None:
        if self.slab is not None:
            self.slab.close()
            self.slab = None


class StreamSessions:
    info: StreamInfo

    def __init__(
        self, hosts: list[Host], served: Served, spec: StreamSpec, hello: messages.Hello, transport: Transport
    ) -> None:
        self._hosts, self._served, self._spec, self._hello, self._transport = hosts, served, spec, hello, transport
        self.id = b""
        self.closed = False
        self._open: dict[Host, HostSession] = {}
        self._refusals: dict[Host, messages.Fault] = {}
        self._hello_sent: dict[Host, float] = {}
        self._leases: defaultdict[bytes, set[int]] = defaultdict(set)  # tickets by slab, which may outlive its session

    def __iter__(self) -> Iterator[tuple[Host, HostSession]]:
        return iter(self._open.items())

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, host: Host) -> HostSession:
        return self._open[host]

    def get(self, host: Host) -> HostSession | None:
        return self._open.get(host)

    @property
    def loaders(self) -> Loaders:
        workers, cores = (sum(getattr(host, what) for host in self._open) for what in ("workers", "cores"))
        by_socket = sum(session.slab is None for session in self._open.values())
        return Loaders(len(self._open), workers, cores, by_socket)

    def say_hello(self) -> None:
        if len(self._open) + len(self._refusals) == len(self._hosts):
            return
        now = time.monotonic()
        for host in self._hosts:
            pending = host not in self._open and host not in self._refusals
            if pending and now - self._hello_sent.get(host, -HELLO_S) >= HELLO_S and host.send(self._hello):
                self._hello_sent[host] = now

    def welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> HostSession | None:
        """Open a session; None if it is open already, or the service is left out.

        Raises WireError if this answers no HELLO of ours, LoaderRefused if services differ at the start.
        """
        info = self._info_of(message, mean)
        if difference := self._served.difference(self._spec.split, info):
            self._leave_out(host, message, f"{difference}: hosts must serve the same")
            return None
        self.info, self.id = self._served.take(host, self._spec.split, info), message.stream
        session = self._open.get(host)
        if session is not None and session.nonce == message.slab_nonce:
            return None  # a repeated WELCOME
        if session is not None:  # of a service that was restarted
            session.close()
        self._open[host] = HostSession.open(host, message, self._transport)
        return self._open[host]

    def _info_of(self, message: messages.Welcome, mean: memoryview) -> StreamInfo:
        if len(mean) != STORED_SIZE * STORED_SIZE * 3 * 4:
            raise WireError("WELCOME: the mean image is not float32 256x256x3")
        if message.stream != self._spec.stream_id(message.digest, self._hello.request):
            raise WireError("WELCOME: it is to another stream")
        mean_hwc = np.frombuffer(mean, np.float32).reshape(STORED_SIZE, STORED_SIZE, 3)
        return StreamInfo(message.records, tuple(message.classes), mean_hwc, message.digest, message.decoder)

    def _leave_out(self, host: Host, message: messages.Welcome, reason: str) -> None:
        """Refuse a service of another dataset: an error at the start of a run."""
        host.send(messages.Bye(message.stream))
        if host.from_start and not self._served.accepted(host, self._spec.split):
            raise LoaderRefused(f"{host.endpoint}: {reason}")
        log.warning("%s is left out: %s", host.endpoint, reason)
        self.refuse(host, reason)

    def refuse(self, host: Host, reason: str) -> None:
        self.refused(host, messages.Fault(self._hello.request, b"", messages.REFUSED, reason, messages.NO_RECORD))

    def refused(self, host: Host, fault: messages.Fault) -> None:
        self._refusals[host] = fault

    def raise_if_refused(self, *, gone_too: bool = False) -> None:
        """Raise LoaderRefused or NoSuchSplit if every service refused; with `gone_too`, if the others are gone."""
        others = [host for host in self._hosts if host not in self._refusals]
        gone = gone_too and all(host.silent or not host.reachable for host in others)
        if not self._refusals or (others and not gone):
            return
        codes = {fault.code for fault in self._refusals.values()}
        reasons = "; ".join(f"{host.endpoint}: {fault.reason}" for host, fault in self._refusals.items())
        raise NoSuchSplit(reasons) if codes == {messages.NO_SUCH_SPLIT} else LoaderRefused(reasons)

    def forget(self, host: Host) -> bool:
        """Return to the state before HELLO; True if it was open."""
        self._hello_sent.pop(host, None)
        self._refusals.pop(host, None)
        session = self._open.pop(host, None)
        if session is not None:
            session.close()
        return session is not None

    def batch(
        self,
        session: HostSession,
        request: BatchRequest,
        reply: messages.BatchReply,
        payload: memoryview | None,
        timeline: Timeline,
    ) -> Batch:
        """The batch in a reply, its pixels in `payload` or a slot. Raises WireError."""
        batches = BatchFormat(self._spec, self.info, self._hello.digests)
        if payload is not None:
            return batches.batch(request, reply, payload, timeline)
        pixels = session.slot_pixels(reply, self._spec, request.count)
        give_back = partial(self._give_back, session.nonce, request.number)
        return batches.batch(request, reply, pixels, timeline, slab=session.slab, give_back=give_back)

    def empty_batch(self, request: BatchRequest) -> Batch:
        return BatchFormat(self._spec, self.info, self._hello.digests).empty(request)

    def lease(self, nonce: bytes, number: int) -> None:
        self._leases[nonce].add(number)

    def _give_back(self, nonce: bytes, number: int) -> None:
        self._leases[nonce].discard(number)
        if not self._leases[nonce]:
            del self._leases[nonce]

    def leased(self, nonce: bytes) -> set[int]:
        return self._leases.get(nonce, set())

    def close(self) -> None:
        self.closed = True
        for host, session in self._open.items():
            host.send(messages.Bye(self.id))
            session.close()
