"""The client of one or several loader services: asks for tickets, asks again, puts the answers in order.

    with LoaderClient("tcp://127.0.0.1:5555") as loader:
        stream = loader.stream(StreamSpec(split="train", seed=0, crop=224), batch_size=128)
        for batch in stream.batches(epochs=range(90)):
            ...  # batch.images: uint8 128 x 224 x 224 x 3

One thread, no torch. Nothing runs here while the caller computes: what was asked for arrives in ZeroMQ's own thread,
and the next tickets leave when the caller comes back for a batch.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from common import wire
from common.endpoints import EndpointsFile
from common.errors import LoaderRefused, LoaderTimeout, UsageError, VersionMismatch, WireError
from common.host import Host
from common.keys import ClientKeys
from common.linux import need_linux
from common.opened import Transport
from common.received import DigestUse
from common.sockets import Context
from common.spec import StreamSpec
from common.stream import Stream

log = logging.getLogger(__name__)

PING_S = 0.5  # how often a host that says nothing is asked whether it is there
TICK_S = 0.05  # how often a wait looks whether a ticket is late
PATIENCE = 10  # times timeout_s that a service which is there may owe an answer
MESSAGES_AT_ONCE = 1000  # of a host, before the caller's turn comes: one that never stops talking ends no wait


class LoaderClient:
    """A client of the services at `endpoints`, which serve the same data set.

    loaders_file  names more of them, one a line; it is read again when it changes, so that services join and leave
                  (`common/endpoints.py`). UsageError where it is wrong at the start; later that is logged
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
        self._given = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        self._file = EndpointsFile(Path(loaders_file)) if loaders_file is not None else None
        more = self._file.changed(time.monotonic()) if self._file is not None else None
        names = dict.fromkeys([*self._given, *(more or [])])
        if not names:
            raise LoaderRefused("no loader endpoint was given")
        self._keys = ClientKeys.read(Path(keys)) if keys is not None else None
        self.timeout_s, self._transport = timeout_s, transport
        self._context: Context = zmq.Context()
        self._hosts: list[Host] = []
        self._streams: list[Stream] = []
        try:
            self._hosts = [Host(self._context, name, self._keys) for name in names]
        except LoaderRefused:
            self.close()
            raise

    def stream(self, spec: StreamSpec, batch_size: int, *, digests: DigestUse = "off") -> Stream:
        """Open a stream of batches of up to `batch_size` pictures.

        With `digests` "on" batches carry the digest of each picture, made where it was decoded; with "verify" they are
        made anew of what arrived, and a batch that was damaged on its way is asked for again.

        Raises NoSuchSplit, LoaderRefused where every service says no, LoaderTimeout where none answers.
        """
        request = len(self._streams)
        stream = Stream(self.wait, self.hear, self._hosts, spec, batch_size, request, self._transport, digests)
        self._streams.append(stream)
        stream.open()
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        for host in self._hosts:
            host.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> "LoaderClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, awaited: str, started: float) -> None:
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
        self._limit_waiting(awaited, started, now)

    def _poll(self) -> list[Host]:
        """Wait until a host speaks; gives those that could not be reached before and now can."""
        poller = zmq.Poller()
        for host in self._hosts:
            host.register(poller)
        events = dict(poller.poll(int(TICK_S * 1000)))
        return [host for host in self._hosts if host.can_send(events)]

    def _limit_waiting(self, awaited: str, started: float, now: float) -> None:
        names = ", ".join(host.endpoint for host in self._hosts)
        silent_s = now - max([started, *(host.heard for host in self._hosts)])
        if silent_s > self.timeout_s:
            said = ", ".join(
                f"{host.endpoint} (which refuses: {host.refusal})" if host.refusal else host.endpoint
                for host in self._hosts
            )
            raise LoaderTimeout(
                f"no word from {said} for {silent_s:.0f} s while waiting for {awaited};"
                " is alexnet-loader running there? (--loader-timeout changes how long is waited)"
            )
        if now - started > PATIENCE * self.timeout_s:
            raise LoaderTimeout(
                f"{names} answers, but did not deliver {awaited} in {now - started:.0f} s; its log may say why"
                f" (that is {PATIENCE} times --loader-timeout)"
            )

    def hear(self) -> None:
        """Take in everything that has arrived."""
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
        for stream in self._streams:
            stream.leave(host)
        self._hosts.remove(host)
        host.close()

    def _take_in(self, host: Host, frames: list[zmq.Frame]) -> None:
        try:
            wire.refuse_long_header(len(frames[0]))
            message = wire.decode(frames[0].bytes, len(frames) - 1)
            if isinstance(message, wire.Pong):
                host.workers, host.cores = message.workers, message.cores
                self._recognise(host, message.instance)
            elif isinstance(message, wire.Welcome):
                host.workers, host.cores = message.workers, message.cores
                if message.request < len(self._streams):
                    self._recognise(host, message.instance)
                    self._streams[message.request].welcome(host, message, frames[1].buffer)
            elif isinstance(message, wire.BatchReply):
                if (stream := self._named(message.stream)) is not None:
                    stream.batch_arrived(host, message, frames[1].buffer if len(frames) > 1 else None)
            elif isinstance(message, wire.Fault):
                self._fault(host, message)
        except VersionMismatch as error:
            self._refused(host, str(error))
        except WireError as error:
            log.warning("a message of %s was ignored: %s", host.endpoint, error)

    def _fault(self, host: Host, fault: wire.Fault) -> None:
        if fault.code in (wire.VERSION_MISMATCH, wire.NO_ACCESS):
            self._refused(host, fault.reason)
            return
        if fault.stream:
            if (stream := self._named(fault.stream)) is not None:
                stream.ticket_failed(host, fault)
        elif 0 <= fault.number < len(self._streams):
            self._streams[fault.number].refused(host, fault)

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
        for stream in self._streams:
            stream.reopen(host)

    def _named(self, stream_id: bytes) -> Stream | None:
        return next((stream for stream in self._streams if stream.id == stream_id and not stream.closed), None)
