"""Answers to requests for names: a millisecond's look-ups at each poll, so that no slow disk holds up a batch."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from common.errors import DatasetError
from common.wire import messages
from loader.service.session import Session, Tracker
from loader.service.sessions import Sessions

AT_ONCE_S = 0.001
MOST_OF_A_CLIENT = 4  # requests that wait, and answers that it has not read

Send = Callable[[bytes, messages.NamesReply], Tracker | None]  # to a client


@dataclass(eq=False, slots=True)
class _Asked:
    session: Session
    request: messages.AskNames
    records: list[int]
    names: list[bytes] = field(default_factory=list)


class NameAnswers:
    def __init__(self, sessions: Sessions, send: Send) -> None:
        self._sessions, self._send = sessions, send
        self._asked: deque[_Asked] = deque()
        self._unread: list[tuple[bytes, Tracker]] = []

    @property
    def waiting(self) -> bool:
        return bool(self._asked)

    def ask(self, session: Session, request: messages.AskNames) -> None:
        """Queue a request; one too many of a client is dropped, and the client repeats it."""
        client = session.address[0]
        self._unread = [(identity, tracker) for identity, tracker in self._unread if not tracker.done]
        own = [asked for asked in self._asked if asked.session.address[0] == client]
        if any(asked.session is session and asked.request.number == request.number for asked in own):
            return
        if len(own) + sum(identity == client for identity, _ in self._unread) < MOST_OF_A_CLIENT:
            self._asked.append(_Asked(session, request, np.frombuffer(request.records, "<u4").tolist()))

    def answer(self) -> None:
        end_s = time.monotonic() + AT_ONCE_S
        while self._asked:
            asked = self._asked[0]
            if self._sessions.get(asked.session.address) is not asked.session:
                self._asked.popleft()
                continue
            while len(asked.names) < len(asked.records):
                asked.names.append(_name(asked.session, asked.records[len(asked.names)]))
                if time.monotonic() > end_s:
                    return
            self._reply(self._asked.popleft())

    def _reply(self, asked: _Asked) -> None:
        client, request = asked.session.address[0], asked.request
        tracker = self._send(client, messages.NamesReply(request.number, request.stream, asked.names))
        if tracker is not None:
            self._unread.append((client, tracker))


def _name(session: Session, record: int) -> bytes:
    try:
        return session.dataset.name(record)
    except DatasetError:  # it was changed, which a ticket's answer tells
        return b""
