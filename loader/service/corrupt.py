"""Corrupt records in the service's log: each replaced one once, with its file."""

import logging
from collections.abc import Sequence

from common.errors import DatasetError
from common.names import readable, told
from loader.service.session import Session

log = logging.getLogger(__name__)

_MOST_LINES = 1000


class CorruptRecords:
    def __init__(self) -> None:
        self._told: set[tuple[str, int]] = set()  # split and record

    def replaced(self, session: Session, places: Sequence[tuple[int, int, str]]) -> None:
        """Log those that were not logged yet."""
        for _, record, reason in places:
            split = session.spec.split
            if (split, record) not in self._told and len(self._told) < _MOST_LINES:
                self._told.add((split, record))
                more = "; of any more there will be no line" if len(self._told) == _MOST_LINES else ""
                known = told(record, file_of(session, record))
                log.warning("record %s of %s is corrupt, another takes its place: %s%s", known, split, reason, more)


def file_of(session: Session, record: int) -> str:
    """Name of the record's file, "" if unknown."""
    try:
        return readable(session.dataset.name(record))
    except DatasetError:
        return ""
