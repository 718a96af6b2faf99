"""When an answer is late: by how long answers have taken of late. No clock of its own."""

import statistics
from collections import deque

_REMEMBERED = 64
_FEW = 8  # answers that tell too little
_SOONEST_S = 0.05  # what is quicker than this is nobody's concern
_OVERDUE_S = 1.0, 5.0  # soonest and latest


class AnswerTimes:
    """How long the last answers took, from TICKET to BATCH, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def late_s(self) -> float:
        """Age at which a ticket is late, and a host with nothing to do is asked for it too: three times the median."""
        if len(self._seconds) < _FEW:
            return _OVERDUE_S[0]
        return max(_SOONEST_S, 3 * statistics.median(self._seconds))

    @property
    def overdue_s(self) -> float:
        """Age at which the ticket, or its answer, counts as lost: ten times the median, 1 to 5 seconds.

        Too soon does no harm: a service that still has the ticket takes it for the same.
        """
        if len(self._seconds) < _FEW:
            return _OVERDUE_S[1]
        soonest_s, latest_s = _OVERDUE_S
        return min(max(soonest_s, 10 * statistics.median(self._seconds)), latest_s)
