"""Reading ahead: the positions of a stream that a disk is asked for before their tickets come."""

from collections import deque

MOST_BYTES = 64 << 20  # asked for ahead of a stream's last ticket
SURE = 8  # tickets with the same gap between them: with fewer in a row another host may serve what follows
_MOST_DUE = 64  # ranges, should tickets come that nobody is given


Positions = tuple[int, int, int]  # an epoch, the first of them in it, their number


class Ahead:
    """Each position of a stream once, in the order of need: tickets as they come, then what will follow them.

    A gap that stays the same is the other ranks' part of each batch, and is left out.

    records        of an epoch; the next one follows
    record_bytes   on average
    """

    def __init__(self, records: int, record_bytes: int) -> None:
        self._records, self._most = records, max(1, MOST_BYTES // record_bytes)
        self._end = self._until = -1  # positions counted through all epochs: of the last ticket; seen up to
        self._gap = self._in_a_row = 0  # positions between tickets; tickets with that gap
        self._due: deque[tuple[int, int]] = deque(maxlen=_MOST_DUE)

    def came(self, epoch: int, first: int, count: int) -> None:
        """Note a ticket's positions. The more came in a row, the further ahead is looked."""
        at = epoch * self._records + first
        if (gap := at - self._end) != self._gap:
            self._gap, self._in_a_row, self._until = max(gap, 0), 0, at
        self._in_a_row, self._end = self._in_a_row + 1, at + count
        apart, following = count + self._gap, min(max(0, self._in_a_row - SURE), -(-self._most // count))
        for number in range(max(0, (self._until - at) // apart), following + 1):
            begin = at + number * apart
            self._see(begin, begin + min(count, self._most - (number - 1) * count))

    def _see(self, begin: int, end: int) -> None:
        if end <= self._until:
            return
        begin = max(begin, self._until)
        if self._due and self._due[-1][1] == begin:
            begin = self._due.pop()[0]
        self._due.append((begin, end))
        self._until = end

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
