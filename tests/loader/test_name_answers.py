"""Requests for names and the service's answers, without sockets."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import zmq

from common.errors import DatasetError
from common.wire import messages
from loader.dataset import Dataset
from loader.service import name_answers
from loader.service.name_answers import MOST_OF_A_CLIENT, NameAnswers
from loader.service.session import Session, Tracker
from loader.service.sessions import Sessions
from tests.support.paper_service import paper_session
from tests.support.processes import wait_for


class _Desk:
    """The answers under test, with one open session of `name`s, and what they sent."""

    def __init__(self, session: Session) -> None:
        session.dataset = cast(Dataset, SimpleNamespace(name=self._name))
        self.open = {session.address: session}
        self.asked_for: list[int] = []
        self.sent: list[messages.NamesReply] = []
        self.frames: list[zmq.Frame] = []  # unread while they are here
        self.answers = NameAnswers(cast(Sessions, self.open), self._send)

    def _name(self, record: int) -> bytes:
        self.asked_for.append(record)
        if record == 99:
            raise DatasetError("changed")
        return b"%d.jpg" % record

    def _send(self, _client: bytes, reply: messages.NamesReply) -> Tracker:
        self.sent.append(reply)
        frame = zmq.Frame(messages.encode(reply), track=True, copy=False, copy_threshold=0)
        self.frames.append(frame)
        return cast(Tracker, frame.tracker)

    def ask(self, session: Session, number: int, *records: int) -> None:
        self.answers.ask(session, messages.AskNames(number, session.address[1], np.array(records, "<u4").tobytes()))


def test_requests_are_answered_in_turn_a_name_at_a_time_if_each_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_answers, "AT_ONCE_S", 0)
    with paper_session() as session:
        desk = _Desk(session)
        desk.ask(session, 1, 5, 99, 7)
        desk.ask(session, 1, 5, 99, 7)  # repeated by an impatient client
        desk.ask(session, 2)
        for looked_up in range(1, 4):
            assert desk.answers.waiting
            desk.answers.answer()
            assert len(desk.asked_for) == looked_up
        desk.answers.answer()
        assert not desk.answers.waiting
        assert [(reply.number, reply.names) for reply in desk.sent] == [(1, [b"5.jpg", b"", b"7.jpg"]), (2, [])]


def test_a_client_that_reads_nothing_is_owed_a_few_answers_and_another_is_answered() -> None:
    with paper_session("deaf") as deaf, paper_session("other") as other:
        desk = _Desk(deaf)
        desk.open[other.address], other.dataset = other, deaf.dataset
        for number in range(100):
            desk.ask(deaf, number, number)
            desk.answers.answer()
        assert len(desk.sent) == MOST_OF_A_CLIENT
        desk.ask(other, 0, 3)
        desk.answers.answer()
        assert desk.sent[-1] == messages.NamesReply(0, other.address[1], [b"3.jpg"])
        trackers = [frame.tracker for frame in desk.frames]
        desk.frames.clear()  # read at last
        wait_for("ZeroMQ to tell", lambda: all(tracker.done for tracker in trackers))
        desk.ask(deaf, 100, 1)
        desk.answers.answer()
        assert desk.sent[-1].number == 100


def test_what_a_closed_stream_asked_for_is_forgotten() -> None:
    with paper_session() as session:
        desk = _Desk(session)
        desk.ask(session, 1, 5)
        desk.open.clear()
        desk.answers.answer()
        assert (desk.sent, desk.asked_for, desk.answers.waiting) == ([], [], False)
