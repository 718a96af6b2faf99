"""Faults injected into real processes at random moments, and the stream that is read meanwhile."""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from tests.support.processes import ANY_PORT, KEEPS_NOTHING, LoaderProcess

Action = Callable[[], object]


@dataclass
class Reading:
    """A digest of each epoch's positions, labels, records and pixels; the rate; the longest wait."""

    digests: list[str] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    longest_wait_s: float = 0.0

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def read_epochs(stream: Stream, first_epoch: int, enough: Callable[[Reading], bool]) -> Reading:
    """Read whole epochs until `enough`; fail if a record does not come exactly once an epoch."""
    reading, started = Reading(), time.monotonic()
    batches = timed(stream.batches(itertools.count(first_epoch)), reading)
    for epoch in itertools.count(first_epoch):
        digest, records = xxhash.xxh3_128(), list[int]()
        while len(records) < stream.info.records:
            batch = next(batches)
            assert (batch.epoch, batch.first) == (epoch, len(records)), "a batch out of its turn"
            digest.update(batch.labels.tobytes() + batch.records.tobytes())
            digest.update(np.ascontiguousarray(batch.images).data)
            records += batch.records.tolist()
        assert sorted(records) == list(range(stream.info.records)), f"epoch {epoch}: a record twice or not at all"
        reading.digests.append(digest.hexdigest())
        reading.images += len(records)
        reading.seconds = time.monotonic() - started
        if enough(reading):
            break
    return reading


def timed(batches: Iterator[Batch], reading: Reading) -> Iterator[Batch]:
    while True:
        asked = time.monotonic()
        batch = next(batches)
        reading.longest_wait_s = max(reading.longest_wait_s, time.monotonic() - asked)
        yield batch


def undisturbed(data: Path, folder: Path, spec: StreamSpec, batch_size: int, epochs: int) -> list[str]:
    """Digests of the first `epochs` epochs, from one worker that nobody disturbs and that decodes every image."""
    one = LoaderProcess(data, folder, 1, ANY_PORT, *KEEPS_NOTHING)
    with one as service, LoaderClient(service.endpoint) as loader:
        return read_epochs(loader.stream(spec, batch_size), 0, lambda reading: len(reading.digests) == epochs).digests


class Mortal:
    """A loader service to kill, stop and restart, always at the same endpoint."""

    def __init__(
        self,
        data: Path,
        folder: Path,
        workers: int = 2,
        bind: str = ANY_PORT,
        *more: str,
        prefix: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self._random = random.Random(seed)
        self._start = partial(LoaderProcess, data, folder, workers, prefix=prefix, restarts=True)
        self._more = more
        self.process = self._start(bind, *more)
        self.endpoint = self.process.endpoint

    def kill_worker(self) -> None:
        self._signal_one_of(self.process.workers, signal.SIGKILL)

    def stop_worker(self) -> None:
        self._signal_one_of(self.process.bound_workers, signal.SIGSTOP)

    def _signal_one_of(self, workers: list[int], number: signal.Signals) -> None:
        if workers:
            with_it = self._random.choice(workers)
            try:
                os.kill(with_it, number)
            except ProcessLookupError:
                return

    def kill_service(self) -> None:
        self.process.signal(signal.SIGKILL)

    def restart(self, down_s: float = 0.0) -> None:
        """Kill the command and its service, pause, start it again."""
        self.process.kill()
        time.sleep(down_s)
        self.process = self._start(self.endpoint, *self._more)

    def freeze(self, seconds: float) -> None:
        """Stop the service: its connections stand, but it is silent."""
        self.process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.signal(signal.SIGCONT)

    def __enter__(self) -> "Mortal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.__exit__(kind, error, None)


class Disturber:
    """Runs one of the weighted `actions` after each pause, in a thread, during the `with` block.

    pause_s   shortest and longest
    """

    def __init__(self, actions: Mapping[str, tuple[float, Action]], pause_s: tuple[float, float], seed: int) -> None:
        self._actions, self._pause_s, self._random = actions, pause_s, random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disturber")
        self._failure: BaseException | None = None
        self.done: Counter[str] = Counter()

    def _run(self) -> None:
        names = list(self._actions)
        weights = [self._actions[name][0] for name in names]
        try:
            while not self._ended.wait(self._random.uniform(*self._pause_s)):
                (name,) = self._random.choices(names, weights)
                self._actions[name][1]()
                self.done[name] += 1
        except BaseException as failure:
            self._failure = failure

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> "Disturber":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()


def client(endpoints: str | list[str], transport: Transport = "auto") -> LoaderClient:
    return LoaderClient(endpoints, timeout_s=60.0, transport=transport)
