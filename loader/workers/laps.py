"""A stopwatch for a worker: each lap's time goes to one stage of the work, so that no time is left out.

It is read three times a picture, which costs a thousandth of what decoding one does.
"""

from time import perf_counter_ns

READ, DECODE, AUGMENT = range(3)


class Laps:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._ns = [0, 0, 0]
        self._since_ns = perf_counter_ns()

    def end(self, stage: int) -> None:
        """What has gone by since the last lap's end was spent on this stage."""
        now_ns = perf_counter_ns()
        self._ns[stage] += now_ns - self._since_ns
        self._since_ns = now_ns

    @property
    def us(self) -> tuple[int, int, int]:
        """Whole microseconds of read, decode and augment, all laps together."""
        read, decode, augment = self._ns
        return read // 1000, decode // 1000, augment // 1000
