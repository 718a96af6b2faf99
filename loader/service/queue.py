"""Fair queue of the jobs of all streams. Plain bookkeeping: no process, no socket, no clock."""

from collections import deque
from collections.abc import Callable, Iterable

from loader.service.session import Job, Key, Session


class TicketQueue:
    """Queued jobs. The stream that was served the fewest images is next; within a stream, first come first served.

    A stream that was idle, or without a slot, has saved nothing up: it continues from where the others are.
    """

    def __init__(self) -> None:
        self._waiting: dict[Session, deque[Job]] = {}
        self._served: dict[Session, int] = {}  # images, or as many as if the stream had taken part all the time
        self._turn = 0  # what the stream that was served last had before

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def waiting(self, session: Session) -> int:
        return len(self._waiting.get(session, ()))

    def add(self, job: Job) -> None:
        self._of(job.session).append(job)

    def put_back(self, job: Job) -> None:
        self._of(job.session).appendleft(job)

    def first(self, session: Session) -> Job | None:
        return next(iter(self._waiting.get(session, ())), None)

    def take(self, waits: Callable[[Job], bool] = lambda job: False) -> Job | None:
        """The next job of a stream that has a free slot, except those for which `waits` is true."""
        able = {
            session: next((job for job in jobs if not waits(job)), None) if session.free_slots > 0 else None
            for session, jobs in self._waiting.items()
        }
        session = min((session for session in able if able[session]), key=self._served.__getitem__, default=None)
        job = able[session] if session is not None else None
        if session is None or job is None:
            return None
        self._turn = self._served[session]
        for other in able:
            if not able[other]:
                self._catch_up(other)
        self._served[session] += job.ticket.count
        self.remove([job])
        return job

    def take_along(self, session: Session, key: Key) -> Job | None:
        """The stream's job of this batch, if it has one and a free slot."""
        jobs = self._waiting.get(session, ()) if session.free_slots > 0 else ()
        job = next((job for job in jobs if job.key == key), None)
        if job is not None:
            self._served[session] += job.ticket.count
            self.remove([job])
        return job

    def charge(self, session: Session, images: int) -> None:
        """Correct what a stream was served, in images."""
        self._served[session] += images

    def remove(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._waiting[job.session].remove(job)
            self._forget_if_empty(job.session)

    def drop(self, session: Session) -> None:
        self._waiting.pop(session, None)
        self._served.pop(session, None)

    def _of(self, session: Session) -> deque[Job]:
        if session not in self._waiting:
            self._waiting[session] = deque()
            self._catch_up(session)
        return self._waiting[session]

    def _forget_if_empty(self, session: Session) -> None:
        if not self._waiting[session]:
            del self._waiting[session]

    def _catch_up(self, session: Session) -> None:
        self._served[session] = max(self._served.get(session, 0), self._turn)
