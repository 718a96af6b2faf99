"""Reading ahead: the positions of a stream that a disk is asked for before their tickets come."""

from collections import deque

MOST_BYTES = 64 << 20  # asked for ahead of a stream's last ticket
SURE = 8  # tickets without a gap: with fewer in a row another host may serve what follows
_MOST_DUE = 64  # ranges, should tickets come that nobody is given


Positions = tuple[int, int, int]  # an epoch, the first of them in it, their number


class Ahead:
    """Each position of a stream once, in the order of need: tickets as they come, then what will follow them.

    records        of an epoch; the next one follows
    record_bytes   on average
    """

    def __init__(self, records: int, record_bytes: int) -> None:
        self._records, self._most = records, max(1, MOST_BYTES // record_bytes)
        self._next = self._until = -1  # positions counted through all epochs: of a ticket without a gap; seen up to
        self._in_a_row = 0  # tickets
        self._due: deque[tuple[int, int]] = deque(maxlen=_MOST_DUE)

    def came(self, epoch: int, first: int, count: int) -> None:
        """Note a ticket's positions. The more came in a row, the further ahead is looked."""
        at = epoch * self._records + first
        if at != self._next:
            self._in_a_row, self._until = 0, at
        self._in_a_row, self._next = self._in_a_row + 1, at + count
        until = self._next + min(self._most, count * max(0, self._in_a_row - SURE))
        if until > self._until:
            begin = self._due.pop()[0] if self._due and self._due[-1][1] == self._until else self._until
            self._due.append((begin, until))
            self._until = until

    def take(self, most: int) -> list[Positions]:
        taken: list[Positions] = []
        while self._due and most > 0:
            begin, end = self._due.popleft()
            epoch, first = divmod(begin, self._records)
            count = min(end - begin, most, self._records - first)
            taken.append((epoch, first, count))
            most -= count
            if begin + count < end:
                self._due.appendleft((begin + count, end))
        return taken
