"""The services that a stream is open on: said HELLO to, open, or refusing and why."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import LoaderRefused, NoSuchSplit, WireError
from ..malloc import keep_large_blocks
from ..spec import STORED_SIZE, StreamInfo, StreamSpec
from ..wire import messages
from ..wire.slab import Slab, slot_bytes
from .host import Host
from .served import Served

log = logging.getLogger(__name__)

HELLO_S = 1.0  # without an answer for so long, HELLO is said again

Transport = Literal["auto", "slab", "frames"]
TRANSPORTS = ("auto", "slab", "frames")


@dataclass(frozen=True, slots=True)
class Loaders:
    """The services that a stream is open on, all together: their workers, and the cores that they may use.

    by_socket   of the hosts, those whose pixels come over a socket and not through shared memory
    """

    hosts: int
    workers: int
    cores: int
    by_socket: int


class Opened:
    """A stream on one service, as the WELCOME with `nonce` opened it.

    slab    None where pixels come as frames over the socket
    using   numbers of the tickets whose pixels are still read from the slab
    """

    def __init__(self, nonce: bytes, credit: int, slab: Slab | None, using: set[int]) -> None:
        self.nonce, self.credit, self.slab, self.using = nonce, credit, slab, using

    @classmethod
    def by(cls, host: Host, welcome: messages.Welcome, transport: Transport, using: set[int]) -> "Opened":
        """Map the slab that `welcome` tells of, if the transport allows and it can be reached.

        using   what is read from this very slab already, as it was opened before
        """
        if transport == "frames":
            return cls._by_frames(welcome, using)
        try:
            slab = Slab.of_process(
                welcome.slab_process, welcome.slab_fd, welcome.slot_bytes, welcome.slots, welcome.slab_nonce
            )
        except OSError as error:
            if transport == "slab":
                raise LoaderRefused(f"the slab of {host.endpoint} cannot be mapped: {error}") from None
            cls._say(host, f"over the socket ({error})")
            return cls._by_frames(welcome, using)
        cls._say(host, "through shared memory")
        return cls(welcome.slab_nonce, welcome.credit, slab, using)

    @classmethod
    def _by_frames(cls, welcome: messages.Welcome, using: set[int]) -> "Opened":
        keep_large_blocks()
        return cls(welcome.slab_nonce, welcome.credit, None, using)

    @staticmethod
    def _say(host: Host, transport: str) -> None:
        if host.transport != transport:
            host.transport = transport
            log.info("%s: pixels come %s", host.endpoint, transport)

    def pixels(self, reply: messages.BatchReply, spec: StreamSpec, count: int) -> memoryview:
        """The bytes of the pictures in the slot that `reply` names. WireError where there is no such slot."""
        if self.slab is None or not 0 <= reply.slot < self.slab.slots:
            raise WireError(f"BATCH: there is no slot {reply.slot}")
        if reply.slab != self.nonce:
            raise WireError("BATCH: its slot is of a slab that was closed")
        if slot_bytes(spec, count) > self.slab.size:
            raise WireError(f"BATCH: {count} pictures are more than a slot holds")
        return self.slab.batch(reply.slot, spec, count).pixels

    def close(self) -> None:
        if self.slab is not None:
            self.slab.close()
            self.slab = None


class Members:
    """Of one stream, among the client's `hosts`, which come and go.

    served      what the client's streams are of
    hello       what opens it, with the client's number for it
    transport   how pixels come
    id, info    the stream's, from the first WELCOME on
    """

    info: StreamInfo

    def __init__(
        self, hosts: list[Host], served: Served, spec: StreamSpec, hello: messages.Hello, transport: Transport
    ) -> None:
        self._hosts, self._served, self._spec, self._hello, self._transport = hosts, served, spec, hello, transport
        self.id = b""
        self._open: dict[Host, Opened] = {}
        self._using: dict[bytes, set[int]] = {}  # tickets whose pixels are read from a slab, by its nonce
        self._refusals: dict[Host, messages.Fault] = {}
        self._hello_sent: dict[Host, float] = {}

    def __iter__(self) -> Iterator[tuple[Host, Opened]]:
        """Those that it is open on."""
        return iter(self._open.items())

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, host: Host) -> Opened:
        return self._open[host]

    def get(self, host: Host) -> Opened | None:
        """None where the stream is not open there."""
        return self._open.get(host)

    @property
    def loaders(self) -> Loaders:
        """Who serves the stream, at the moment."""
        workers, cores = (sum(getattr(host, what) for host in self._open) for what in ("workers", "cores"))
        by_socket = sum(opened.slab is None for opened in self._open.values())
        return Loaders(len(self._open), workers, cores, by_socket)

    def say_hello(self) -> None:
        """To every service that has not answered, again after a while."""
        if len(self._open) + len(self._refusals) == len(self._hosts):
            return
        now = time.monotonic()
        for host in self._hosts:
            pending = host not in self._open and host not in self._refusals
            if pending and now - self._hello_sent.get(host, -HELLO_S) >= HELLO_S and host.send(self._hello):
                self._hello_sent[host] = now

    def welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> Opened | None:
        """Take in a WELCOME; gives what it opened, None where that is nothing new.

        Raises WireError where it is none to this HELLO, LoaderRefused where services that a run begins with differ.
        """
        if len(mean) != STORED_SIZE * STORED_SIZE * 3 * 4:
            raise WireError("WELCOME: the mean image is not float32 256x256x3")
        if message.stream != self._spec.stream_id(message.digest, self._hello.request):
            raise WireError("WELCOME: it is to another stream")
        mean_hwc = np.frombuffer(mean, np.float32).reshape(STORED_SIZE, STORED_SIZE, 3)
        told = StreamInfo(message.records, tuple(message.classes), mean_hwc, message.digest, message.decoder)
        if difference := self._served.difference(self._spec.split, told):
            self._refuse_other(host, message, f"{difference}: hosts must serve the same")
            return None
        self.info = self._served.take(host, self._spec.split, told)
        self.id = message.stream
        if host in self._open:
            if self._open[host].nonce == message.slab_nonce:
                return None  # said twice
            self._open[host].close()
        # The slab may be one that was left on a word that came late, and is still read from.
        self._using = {nonce: using for nonce, using in self._using.items() if using}
        using = self._using.setdefault(message.slab_nonce, set())
        self._open[host] = Opened.by(host, message, self._transport, using)
        return self._open[host]

    def _refuse_other(self, host: Host, message: messages.Welcome, reason: str) -> None:
        """A service that serves something else ends the run at its start, and is left out later."""
        host.send(messages.Bye(message.stream))
        if host.from_start and not self._served.accepted(host, self._spec.split):
            raise LoaderRefused(f"{host.endpoint}: {reason}")
        log.warning("%s is left out: %s", host.endpoint, reason)
        self.refuse(host, reason)

    def refuse(self, host: Host, reason: str) -> None:
        """It is not asked until it is forgotten."""
        self.refused(host, messages.Fault(self._hello.request, b"", messages.REFUSED, reason, messages.NO_RECORD))

    def refused(self, host: Host, fault: messages.Fault) -> None:
        """It answered the HELLO so."""
        self._refusals[host] = fault

    def raise_if_refused(self, *, gone_too: bool = False) -> None:
        """Where every service said no; those that are gone may be waited for, or not."""
        others = [host for host in self._hosts if host not in self._refusals]
        gone = gone_too and all(host.silent or not host.reachable for host in others)
        if not self._refusals or (others and not gone):
            return
        codes = {fault.code for fault in self._refusals.values()}
        told = "; ".join(f"{host.endpoint}: {fault.reason}" for host, fault in self._refusals.items())
        raise NoSuchSplit(told) if codes == {messages.NO_SUCH_SPLIT} else LoaderRefused(told)

    def forget(self, host: Host) -> bool:
        """It is as if HELLO had not been said; whether the stream was open there."""
        self._hello_sent.pop(host, None)
        self._refusals.pop(host, None)
        opened = self._open.pop(host, None)
        if opened is not None:
            opened.close()
        return opened is not None

    def close(self) -> None:
        """Say BYE to all."""
        for host, opened in self._open.items():
            host.send(messages.Bye(self.id))
            opened.close()
