"""The client of one or several loader services: asks for tickets, asks again, puts the answers in order.

    with LoaderClient("tcp://127.0.0.1:5555") as loader:
        stream = loader.stream(StreamSpec(split="train", seed=0, crop=224), batch_size=128)
        for epoch in range(90):
            for batch in stream:
                ...  # batch.images: uint8 128 x 224 x 224 x 3, the caller's own

No torch. While the caller computes, answers arrive in ZeroMQ's thread, and a thread of ours only watches how much comes
(`common/wire/flood.py`); the next tickets leave when the caller comes back for a batch. A client is its process's own,
and serves one thread at a time (`common/client/owner.py`).
"""

import logging
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zmq

from ..cli.entry import need_linux
from ..cli.log import Seldom
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

PING_S = 0.5  # how often a host that says nothing is asked whether it is there
TICK_S = 0.05  # how often a wait looks whether a ticket is late
MESSAGES_AT_ONCE = 1000  # of a host, before the caller's turn comes: one that never stops talking ends no wait


class LoaderClient:
    """A client of the services at `endpoints`, which serve the same data set.

    loaders_file  names more of them, one a line; it is read again when it changes, so that services join and leave
                  (`common/client/endpoints.py`). UsageError where it is wrong at the start; later that is logged
    timeout_s   seconds without a word from any of them after which waiting ends in LoaderTimeout; where one is there
                and does not deliver, ten times as long
    transport   "slab": pixels come through the service's shared memory, which must be on this host. "frames": over the
                socket. "auto": the first where it can be had
    keys        folder with client.key_secret and server.key, which `alexnet-loader keys` makes; UsageError where they
                are missing. Without it no service that wants keys answers, and nothing is encrypted

    Raises UsageError on another system than Linux.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = (),
        *,
        loaders_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
        transport: Transport = "auto",
        keys: str | os.PathLike[str] | None = None,
    ) -> None:
        need_linux()
        self._owner = Owner(self._close)
        self.timeout_s = Real(0, float("inf")).of("timeout_s", timeout_s)
        self._transport = one_of("transport", transport, TRANSPORTS)
        self._given = _endpoints(endpoints)
        self._file = EndpointsFile(Path(loaders_file)) if loaders_file is not None else None
        more = self._file.changed(time.monotonic()) if self._file is not None else None
        names = dict.fromkeys([*self._given, *(more or [])])
        if not names:
            raise LoaderRefused("no loader endpoint was given")
        self._keys = ClientKeys.read(Path(keys)) if keys is not None else None
        self._context = new_context()
        self._hosts: list[Host] = []
        self._guard: FloodGuard | None = None
        self._streams: dict[int, Stream] = {}  # by the number of the request that opened it
        self._requests = 0
        self._seldom, self._served = Seldom(), Served()
        try:
            self._hosts = [Host(self._context, name, self._keys) for name in names]
            self._guard = FloodGuard(self._hosts)
            weakref.finalize(self, self._guard.drop)
        except LoaderRefused:
            self.close()
            raise

    def stream(self, spec: StreamSpec, batch_size: int, *, digests: DigestUse = "off") -> Stream:
        """Open a stream of batches of up to `batch_size` pictures.

        With `digests` "on" batches carry the digest of each picture, made where it was decoded; with "verify" they are
        made anew of what arrived, and a batch that was damaged on its way is asked for again.

        Raises UsageError for a value of another type or out of its range, NoSuchSplit, LoaderRefused if every service
        says no, LoaderTimeout if none answers, and LoaderError for a use that `common/client/owner.py` excludes.
        """
        return self._owner.run(lambda: self._open(spec, batch_size, digests))

    def _open(self, spec: StreamSpec, batch_size: int, digests: DigestUse) -> Stream:
        services = Services(self._owner, self._hosts, self._served, self.timeout_s, self.wait, self.hear)
        stream = Stream(services, spec, batch_size, self._requests, self._transport, digests)
        self._streams[self._requests] = stream
        self._requests += 1
        try:
            stream.open()
        except BaseException:  # KeyboardInterrupt too: nobody else could close it
            stream.shut()
            raise
        return stream

    def close(self) -> None:
        """Close all streams and connections. A thread that waits for a batch meanwhile gets a LoaderError.

        A second time changes nothing; nor does it in a process that was forked from the one that opened the client.
        """
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
        """Hear the services once, for up to TICK_S; ping those that say nothing; raise LoaderTimeout in the end."""
        connected = self._poll()
        self.hear()
        if self._hosts and all(host.refusal for host in self._hosts):
            raise LoaderRefused("; ".join(f"{host.endpoint} refuses: {host.refusal}" for host in self._hosts))
        now = time.monotonic()
        for host in self._hosts:
            due = host in connected or now - max(host.heard, host.pinged) > PING_S
            if due and not host.ping(now):
                self._reopen_streams(host)
            host.note_silence(now)
        wait.check(self._hosts)

    def _poll(self) -> list[Host]:
        """Wait until a host speaks; gives those that could not be reached before and now can."""
        poller = zmq.Poller()
        for host in self._hosts:
            host.register(poller)
        events = dict(poller.poll(int(TICK_S * 1000)))
        return [host for host in self._hosts if host.can_send(events)]

    def hear(self) -> None:
        """Take in everything that has arrived. Raises LoaderError if the client is to be closed."""
        self._owner.refuse_closed()
        for number in [number for number, stream in self._streams.items() if stream.closed]:
            del self._streams[number]
        self._follow_file()
        for host in self._hosts:
            if host.watch():
                log.warning("%s refuses: %s", host.endpoint, host.refusal)
            for _ in range(MESSAGES_AT_ONCE):
                if (frames := host.receive()) is None:
                    break
                host.note_heard(time.monotonic())
                self._take_in(host, frames)

    def _follow_file(self) -> None:
        """Let services join and leave as the file of endpoints says."""
        try:
            endpoints = self._file.changed(time.monotonic()) if self._file is not None else None
        except UsageError as error:
            log.warning("%s; the loaders stay as they are", error)
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
            self._hosts.append(Host(self._context, endpoint, self._keys, from_start=False))
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
            if isinstance(message, messages.Pong):
                host.workers, host.cores = message.workers, message.cores
                self._recognise(host, message.instance)
            elif isinstance(message, messages.Welcome):
                host.workers, host.cores = message.workers, message.cores
                if message.request < self._requests:
                    self._recognise(host, message.instance)
                    self._welcome(host, message, payloads[0])
            elif isinstance(message, messages.BatchReply):
                host.answered(message.stream, message.number)
                if (stream := self._named(message.stream)) is not None:
                    stream.batch_arrived(host, message, payloads[0] if payloads else None)
            elif isinstance(message, messages.Fault):
                self._fault(host, message)
        except VersionMismatch as error:
            self._refused(host, str(error))
        except WireError as error:
            log.warning("a message of %s was ignored: %s", host.endpoint, error)

    def _welcome(self, host: Host, message: messages.Welcome, mean: memoryview) -> None:
        stream = self._streams.get(message.request)
        if stream is None or stream.closed:  # the answer to a HELLO of before
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
        elif fault.number < 0 and self._seldom.due(host.endpoint):
            log.warning("%s could not read a message of ours: %s", host.endpoint, fault.reason)

    def _refused(self, host: Host, reason: str) -> None:
        if host.refusal != reason:
            log.warning("%s refuses: %s", host.endpoint, reason)
        host.refuses(reason)
        self._reopen_streams(host)

    def _recognise(self, host: Host, instance: bytes) -> None:
        """A service that was started anew knows no stream and has forgotten what it was asked."""
        if host.instance and host.instance != instance:
            log.info("%s was restarted", host.endpoint)
            self._reopen_streams(host)
        host.instance = instance

    def _reopen_streams(self, host: Host) -> None:
        for stream in self._streams.values():
            stream.reopen(host)

    def _named(self, stream_id: bytes) -> Stream | None:
        return next((stream for stream in self._streams.values() if stream.id == stream_id and not stream.closed), None)


def _endpoints(given: Any) -> list[str]:
    """The endpoints as a list. Raises UsageError for what is none."""
    endpoints = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if wrong := [each for each in endpoints if not isinstance(each, str)]:
        raise UsageError(f"endpoint {wrong[0]!r} is no text like 'tcp://host:5555'")
    return endpoints
