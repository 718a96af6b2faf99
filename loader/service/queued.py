"""How long a stream's tickets wait, and for what. Plain books: no queue, no process.

A ticket that is not given to a worker waits for a slot as long as its stream has none free, and else for a worker. A
ticket whose worker died waits for another, since it first came.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(frozen=True, slots=True)
class _Came:
    """When a ticket came, and how long the stream had been without a slot before that, in all."""

    at_us: int
    slotless_us: int


@dataclass(slots=True)
class QueueTimes:
    """Of one stream.

    now_us   a clock in microseconds that never goes back
    """

    now_us: Callable[[], int] = _monotonic_us
    _slotless_us: int = 0
    _slotless_since_us: int | None = None
    _came: dict[int, _Came] = field(default_factory=dict)  # by ticket number
    _waited: dict[int, tuple[int, int]] = field(default_factory=dict)

    def note_slots(self, free: int) -> None:
        """So many slots are free from now on."""
        now_us = self.now_us()
        self._slotless_us = self._slotless(now_us)
        self._slotless_since_us = None if free else now_us

    def come(self, number: int) -> None:
        """A ticket has come; one that came before has not come again."""
        now_us = self.now_us()
        self._came.setdefault(number, _Came(now_us, self._slotless(now_us)))

    def given(self, number: int) -> None:
        """The ticket was given to a worker, maybe another than before."""
        self.come(number)  # unless it was forgotten: a client may say that it is done with what is being filled
        now_us, came = self.now_us(), self._came[number]
        for_slot_us = self._slotless(now_us) - came.slotless_us
        self._waited[number] = now_us - came.at_us - for_slot_us, for_slot_us

    def answered(self, number: int) -> tuple[int, int]:
        """What the ticket waited, for a worker and for a slot; it is forgotten. Nothing, if it was before."""
        self._came.pop(number, None)
        return self._waited.pop(number, (0, 0))

    def forget(self, is_done: Callable[[int], bool]) -> None:
        """Nobody wants these tickets any more."""
        for number in [number for number in self._came if is_done(number)]:
            self.answered(number)

    def _slotless(self, now_us: int) -> int:
        running_us = 0 if self._slotless_since_us is None else now_us - self._slotless_since_us
        return self._slotless_us + running_us
