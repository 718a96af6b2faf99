"""The batches whose slots the devices may still be reading.

A copy from a slot is queued, not done, when the host goes on, and the loader fills a slot again once it is given back.
So a batch is kept with the events of its copies, and goes back when these have passed:

    host      queues the copies of batch k, one to each device, and step k behind them
    host      gives back the batches whose copies are over; waits for the others but the newest KEPT
    host      asks for batch k + 1, with which the loader learns what was given back
"""

from collections import deque
from collections.abc import Sequence

from common.client.batch import Batch
from trainer.device.streams import Event, Streams


class Lent:
    """Batches to be given back, in the order they came."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._batches: deque[tuple[Batch, Sequence[Event]]] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def keep(self, batch: Batch, copies: Sequence[Event]) -> None:
        """Until each of `copies`, recorded behind a copy from the batch's images, has passed."""
        batch.keep()
        self._batches.append((batch, copies))

    def give_back(self, but: int = 0) -> None:
        """All batches that are not read any more; waits on the host until no more than `but` are left."""
        while self._batches and (len(self._batches) > but or self._is_over(self._batches[0][1])):
            for copy in self._batches[0][1]:
                self._streams.synchronize(copy)
            self._batches.popleft()[0].release()

    def _is_over(self, copies: Sequence[Event]) -> bool:
        return all(self._streams.passed(copy) for copy in copies)
