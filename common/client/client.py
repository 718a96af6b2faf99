"""Client for one or more loader services: requests batches, retries, reorders.

Replies arrive in ZeroMQ's thread while the caller computes; tickets leave when it asks for a batch.
"""

import itertools
import logging
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zmq

from ..cli.command_line import DEFAULT_TIMEOUT_S
from ..cli.entry import need_linux
from ..cli.log import RateLimiter
from ..errors import LoaderError, LoaderRefused, UsageError, VersionMismatch, WireError
from ..ranges import Real
from ..spec import DigestUse, StreamSpec, one_of
from ..wire import messages
from ..wire.flood import FloodGuard
from ..wire.keys import ClientKeys
from ..wire.sockets import new_context
from .endpoints import EndpointsFile
from .host import Host
from .owner import Owner
from .patience import Wait
from .served import Served, Services
from .stream import Stream
from .stream_sessions import TRANSPORTS, Transport

log = logging.getLogger(__name__)

PING_S = 0.5  # between two PINGs to a host that does not respond
TICK_MS = 50  # between two looks for late tickets
IO_THREADS = 4  # that decrypt, each for some of the hosts; left to itself ZeroMQ may give all to one
MESSAGES_AT_ONCE = 1000  # drained per host and poll, so a chatty host cannot starve the caller


class LoaderClient:
    """A client of the services at `endpoints`, which serve the same dataset.

    loaders_file  further endpoints, reread when the file changes (`common/client/endpoints.py`)
    timeout_s     seconds without a response after which a wait ends in LoaderTimeout; ten times that if a service
                  responds and does not deliver
    patience_s    the longest wait, whatever `timeout_s` says
    transport     "slab": through the service's shared memory, on this host. "frames": over the socket. "auto": the
                  slab if it can be mapped
    keys          folder made by `alexnet-loader keys`; without it nothing is encrypted

    Raises UsageError for a wrong argument, file or key, and on any system but Linux.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = (),
        *,
        loaders_file: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        patience_s: float = float("inf"),
        transport: Transport = "auto",
        keys: str | os.PathLike[str] | None = None,
    ) -> None:
        need_linux()
        self._owner = Owner(self._close)
        self.timeout_s = Real(0, float("inf")).of("timeout_s", timeout_s)
        self._patience_s = Real(0, float("inf")).of("patience_s", patience_s)
        self._transport = one_of("transport", transport, TRANSPORTS)
        self._given = _endpoints(endpoints)
        self._file = EndpointsFile(Path(loaders_file)) if loaders_file is not None else None
        more = self._file.changed(time.monotonic()) if self._file is not None else None
        names = dict.fromkeys([*self._given, *(more or [])])
        if not names:
            raise LoaderRefused("no loader endpoint given")
        self._keys = ClientKeys.read(Path(keys)) if keys is not None else None
        threads = IO_THREADS if self._file is not None else min(len(names), IO_THREADS)
        self._context, self._io_threads = new_context(threads), itertools.cycle(range(threads))
        self._hosts: list[Host] = []
        self._guard: FloodGuard | None = None
        self._streams: dict[int, Stream] = {}  # by the number of their HELLO
        self._requests = 0
        self._log_limit, self._served = RateLimiter(), Served()
        try:
            self._hosts = [
                Host(self._context, name, self._keys, io_thread=thread)
                for name, thread in zip(names, self._io_threads, strict=False)
            ]
            self._guard = FloodGuard(self._hosts)
            weakref.finalize(self, self._guard.drop)
        except LoaderRefused:
            self.close()
            raise

    def stream(self, spec: StreamSpec, batch_size: int, *, digests: DigestUse = "off", ranks: int = 1) -> Stream:
        """Open a stream of batches of up to `batch_size` images.

        ranks   processes that share each batch (`Stream.batches`), each with a stream: the services divide by it the
                slots that one reader would get

        With `digests` "on" batches carry a digest of each image; "verify" also checks them and retries damaged batches.

        Raises UsageError for a value of the wrong type or out of range, NoSuchSplit, LoaderRefused if every service
        refuses, LoaderTimeout if none responds.
        """
        return self._owner.run(lambda: self._open(spec, batch_size, digests, ranks))

    def _open(self, spec: StreamSpec, batch_size: int, digests: DigestUse, ranks: int) -> Stream:
        services = Services(self._owner, self._hosts, self._served, self.timeout_s, self.wait, self.hear)
        stream = Stream(services, spec, batch_size, self._requests, self._transport, digests, ranks)
        self._streams[self._requests] = stream
        self._requests += 1
        try:
            stream.open()
        except BaseException:  # KeyboardInterrupt too: nobody else could close it
            stream.shut()
            raise
        return stream

    def close(self) -> None:
        """Close all streams and connections; a thread that waits for a batch gets a LoaderError. Idempotent."""
        self._owner.close()

    def _close(self) -> None:
        for stream in [*self._streams.values()]:
            stream.shut()
        if self._guard is not None:
            self._guard.close()
        for host in self._hosts:
            host.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> "LoaderClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise LoaderError("a LoaderClient cannot be pickled or copied: open one in the process that reads")

    def wait(self, wait: Wait) -> None:
        """Take in messages once, for up to TICK_MS, and ping unresponsive hosts. Raises LoaderTimeout in the end."""
        connected = self._hear(TICK_MS)
        if self._hosts and all(host.refusal for host in self._hosts):
            raise LoaderRefused("; ".join(f"{host.endpoint} refuses: {host.refusal}" for host in self._hosts))
        now = time.monotonic()
        for host in self._hosts:
            due = host in connected or now - max(host.heard, host.pinged) > PING_S
            if due and not host.ping(now):
                self._reopen_streams(host)
            host.note_silence(now)
        wait.check(self._hosts, self._patience_s)

    def hear(self) -> None:
        """Take in what has come."""
        self._hear(0)

    def _hear(self, wait_ms: int) -> list[Host]:
        """Wait for messages, and take them in; returns hosts to which a connection stands again."""
        poller = zmq.Poller()
        for host in self._hosts:
            host.register(poller)
        events = dict(poller.poll(wait_ms))
        connected = [host for host in self._hosts if host.can_send(events)]
        self._owner.refuse_closed()
        for number in [number for number, stream in self._streams.items() if stream.closed]:
            del self._streams[number]
        self._follow_file()
        for host in self._hosts:
            if host.watch(events):
                log.warning("%s refuses: %s", host.endpoint, host.refusal)
            for _ in range(MESSAGES_AT_ONCE if host.can_receive(events) else 0):
                if (frames := host.receive()) is None:
                    break
                host.note_heard(time.monotonic())
                self._take_in(host, frames)
        return connected

    def _follow_file(self) -> None:
        try:
            endpoints = self._file.changed(time.monotonic()) if self._file is not None else None
        except UsageError as error:
            log.warning("%s; the loaders stay the same", error)
            return
        if endpoints is None:
            return
        names = dict.fromkeys([*self._given, *endpoints])
        for host in [host for host in self._hosts if host.endpoint not in names]:
            self._leave(host)
        for name in names.keys() - {host.endpoint for host in self._hosts}:
            self._join(name)

    def _join(self, endpoint: str) -> None:
        try:
            thread = next(self._io_threads)
            self._hosts.append(Host(self._context, endpoint, self._keys, from_start=False, io_thread=thread))
            log.info("%s joins", endpoint)
        except LoaderRefused as error:
            log.warning("%s", error)

    def _leave(self, host: Host) -> None:
        log.info("%s leaves", host.endpoint)
        for stream in self._streams.values():
            stream.leave(host)
        self._hosts.remove(host)
        host.close()

    def _take_in(self, host: Host, frames: list[memoryview]) -> None:
        try:
            header, *payloads = [*messages.split(frames[0]), *frames[1:]]
            messages.refuse_long_header(len(header))
            message = messages.decode(bytes(header), len(payloads))
            match message:
                case messages.Pong():
                    self._note_load(host, message)
                case messages.Welcome() if message.request < self._requests:
                    self._note_load(host, message)
                    self._welcome(host, message, payloads[0])
                case messages.BatchReply():
                    host.answered(message.stream, message.number)
                    if (stream := self._named(message.stream)) is not None:
                        stream.batch_arrived(host, message, payloads[0] if payloads else None)
                case messages.NamesReply():
                    if (stream := self._named(message.stream)) is not None:
                        stream.naming.arrived(host, message)
                case messages.Fault():
                    self._fault(host, message)
        except VersionMismatch as error:
            self._refused(host, str(error))
        except WireError as error:
            log.warning("ignored a message from %s: %s", host.endpoint, error)

    def _welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> None:
        stream = self._streams.get(message.request)
        if stream is None or stream.closed:  # an answer to an old HELLO
            host.send(messages.Bye(message.stream))
        else:
            stream.welcome(host, message, mean)

    def _fault(self, host: Host, fault: messages.Fault) -> None:
        if fault.code in (messages.VERSION_MISMATCH, messages.NO_ACCESS):
            self._refused(host, fault.reason)
            return
        if fault.stream:
            host.answered(fault.stream, fault.number)
            if (stream := self._named(fault.stream)) is not None:
                stream.ticket_failed(host, fault)
        elif (asking := self._streams.get(fault.number)) is not None:
            asking.refused(host, fault)
        elif fault.number < 0 and self._log_limit.allows(host.endpoint):
            log.warning("%s could not read a message from this client: %s", host.endpoint, fault.reason)

    def _refused(self, host: Host, reason: str) -> None:
        if host.refusal != reason:
            log.warning("%s refuses: %s", host.endpoint, reason)
        host.refuses(reason)
        self._reopen_streams(host)

    def _note_load(self, host: Host, message: messages.Pong | messages.Welcome) -> None:
        host.workers, host.cores = message.workers, message.cores
        if host.instance and host.instance != message.instance:
            log.info("%s was restarted", host.endpoint)
            self._reopen_streams(host)
        host.instance = message.instance

    def _reopen_streams(self, host: Host) -> None:
        for stream in self._streams.values():
            stream.reopen(host)

    def _named(self, stream_id: bytes) -> Stream | None:
        return next((stream for stream in self._streams.values() if stream.id == stream_id and not stream.closed), None)


def _endpoints(given: Any) -> list[str]:
    endpoints = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if wrong := [each for each in endpoints if not isinstance(each, str)]:
        raise UsageError(f"endpoint {wrong[0]!r} is not a string like 'tcp://host:5555'")
    return endpoints
