"""What a client keeps of a stream that one service has opened: its credit, and the slab if it can be mapped."""

import logging
from typing import Literal

from ..errors import LoaderRefused, WireError
from ..malloc import keep_large_blocks
from ..spec import StreamSpec
from ..wire import messages
from ..wire.slab import Slab, slot_bytes
from .host import Host

log = logging.getLogger(__name__)

Transport = Literal["auto", "slab", "frames"]
TRANSPORTS = ("auto", "slab", "frames")


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
