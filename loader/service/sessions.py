"""Open sessions and their quotas: memory, number, and WELCOMEs in flight."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from common.errors import LoaderError, NoSuchSplit
from common.spec import StreamSpec
from common.wire import messages
from loader.dataset import Dataset
from loader.service.resources import MOST_STREAMS
from loader.service.session import Address, Session, Tracker, credit_for
from loader.service.shelf import Companions

MOST_STREAMS_OF_A_CLIENT = 64
MOST_WELCOMES_OF_A_CLIENT = 4
MOST_WELCOMES = 64  # of all clients, 50 MB


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    stream: int
    total: int
    streams: int = MOST_STREAMS


class Sessions:
    """Sessions by (client, stream) and by slab number; `forget` is called with each slab's before it is closed."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        memory: MemoryLimits,
        ended: Callable[[Session], None],
        forget: Callable[[int], None],
    ) -> None:
        self._datasets, self._memory, self._ended, self._forget = datasets, memory, ended, forget
        self._by_address: dict[Address, Session] = {}
        self._by_slab: dict[int, Session] = {}
        self._slab_numbers = itertools.count(1)
        self.companions = Companions(self._slab_numbers, forget)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy: sessions may end meanwhile."""
        return iter(list(self._by_address.values()))

    def get(self, address: Address) -> Session | None:
        return self._by_address.get(address)

    def of_slab(self, number: int) -> Session | None:
        return self._by_slab.get(number)

    @property
    def clients(self) -> set[bytes]:
        return {identity for identity, _ in self._by_address}

    @property
    def full(self) -> bool:
        return len(self._by_address) >= self._memory.streams

    def credit(self, spec: StreamSpec, batch_size: int, ranks: int, workers: int) -> int:
        return credit_for(spec, batch_size, ranks, workers, min(self._memory.stream, self._memory.total))

    def open(self, identity: bytes, hello: messages.Hello, workers: int) -> tuple[Session, bool]:
        """Find or open the session that `hello` asks for; True if it is new.

        Raises UsageError if there is no such stream, NoSuchSplit, and LoaderError if it exceeds a quota.
        """
        spec = hello.spec
        dataset = self._datasets.get(spec.split)
        if dataset is None:
            raise NoSuchSplit(f"this dataset has no {spec.split} split, only {', '.join(self._datasets)}")
        address = identity, spec.stream_id(dataset.digest, hello.request)
        session = self.get(address)
        asked = hello.batch_size, hello.digests, hello.ranks
        if session is not None and (session.batch_size, session.digests, session.ranks) == asked:
            return session, False
        if session is not None:
            self.end(session)
        self._refuse_too_many(identity)
        credit = self.credit(spec, hello.batch_size, hello.ranks, workers)
        self._make_room(Session.bytes_of(spec, hello.batch_size, credit))
        number = next(self._slab_numbers)
        try:
            session = Session(address, spec, dataset, *asked, credit, number)
        except OSError as error:
            raise LoaderError(f"there is no memory for the stream: {error.strerror}") from None
        self._by_address[address] = self._by_slab[number] = session
        self.companions.join(session, self._memory.total - self._taken - self.companions.taken_bytes)
        return session, True

    def end(self, session: Session) -> None:
        del self._by_address[session.address], self._by_slab[session.slab_number]
        self.companions.leave(session)
        self._ended(session)
        self._forget(session.slab_number)
        session.close()

    def end_all(self, identity: bytes) -> None:
        for session in self:
            if session.address[0] == identity:
                self.end(session)

    def _refuse_too_many(self, identity: bytes) -> None:
        if self.full:
            raise LoaderError(f"{self._memory.streams} streams are open already; close one, or ask another service")
        if sum(address[0] == identity for address in self._by_address) >= MOST_STREAMS_OF_A_CLIENT:
            raise LoaderError(f"one client may have {MOST_STREAMS_OF_A_CLIENT} streams open; close one")

    @property
    def _taken(self) -> int:
        return sum(session.slab.total_bytes for session in self._by_slab.values())

    def _make_room(self, needed: int) -> None:
        """Raise LoaderError if a session of so many bytes is too large; shelves make room for it."""
        taken = self._taken
        if taken + needed > self._memory.total:
            raise LoaderError(
                f"the stream needs {-(-needed >> 20)} MiB; of {self._memory.total >> 20} MiB for all streams"
                f" {taken >> 20} are taken (alexnet-loader --memory-mib)"
            )
        self.companions.shrink(self._memory.total - taken - needed)


class Welcomes:
    """WELCOMEs in flight, oldest first. A mean image is in each: a client that does not read may have few."""

    def __init__(self) -> None:
        self._in_flight: list[tuple[bytes, Tracker]] = []

    def may_have(self, identity: bytes) -> bool:
        """Return False if the client has too many in flight; if it does read, it repeats its HELLO."""
        self._in_flight = [(client, tracker) for client, tracker in self._in_flight if not tracker.done]
        return sum(client == identity for client, _ in self._in_flight) < MOST_WELCOMES_OF_A_CLIENT

    def sent(self, identity: bytes, tracker: Tracker | None) -> bytes | None:
        """Note one that was sent; return the client with the oldest, to be cut, if there are too many."""
        if tracker is not None:
            self._in_flight.append((identity, tracker))
        return self._in_flight[0][0] if len(self._in_flight) > MOST_WELCOMES else None
