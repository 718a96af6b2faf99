"""Clients that read a stream and compare it: here, or in a process that prints a line for each batch."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from types import TracebackType

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from tests.support.processes import wait_for

SPEC = StreamSpec(split="train", seed=3, crop=64)


def fingerprint(batches: Iterable[Batch]) -> list[str]:
    """Digests, batch by batch: position, labels, records and pixels."""
    return [
        hashlib.blake2b(
            repr((b.epoch, b.first)).encode() + b.labels.tobytes() + b.records.tobytes() + b.images.tobytes(),
            digest_size=8,
        ).hexdigest()
        for b in batches
    ]


def read(
    endpoints: str | list[str],
    epochs: int = 2,
    batch_size: int = 16,
    spec: StreamSpec = SPEC,
    transport: Transport = "auto",
) -> list[str]:
    """Fingerprints of a client's first epochs."""
    with LoaderClient(endpoints, transport=transport) as loader:
        return fingerprint(loader.stream(spec, batch_size).batches(range(epochs)))


def read_until(batches: Iterator[Batch], found: Callable[[], object]) -> None:
    """Read on, as a client does, until that is so."""

    def read_some() -> bool:
        next(batches)
        return bool(found())

    wait_for("what was asked for while reading", read_some)


class Honest:
    """A client that reads on, and checks what comes."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self._expected = stream, list[str]()
        self._batches = stream.batches(itertools.repeat(0))

    def reads_on(self, batches: int = 20) -> None:
        for _ in range(batches):
            batch = next(self._batches)
            (came,) = fingerprint([batch])
            place = batch.first // 16
            if place == len(self._expected):
                self._expected.append(came)
            assert came == self._expected[place]


class ReaderProcess:
    """Reads `epochs` epochs of a stream, in a `with` block.

    lines   "images fingerprint" of each batch taken in so far by `read_line` or `read_more`
    """

    def __init__(
        self, endpoint: str, spec: StreamSpec, batch_size: int, epochs: int, transport: Transport = "auto"
    ) -> None:
        given = json.dumps([endpoint, asdict(spec), batch_size, epochs, transport])
        self.process = subprocess.Popen([sys.executable, "-m", "tests.support.reader", given], stdout=subprocess.PIPE)
        self.lines: list[str] = []
        self._unread = b""

    @property
    def pictures(self) -> int:
        return sum(int(line.split()[0]) for line in self.lines)

    @property
    def fingerprints(self) -> list[str]:
        return [line.split()[1] for line in self.lines]

    def read_until(self, pictures: int) -> None:
        """Wait until so many have come, or the stream has ended."""
        while self.pictures < pictures and self._take_in():
            pass

    def read_all(self) -> list[str]:
        """Fingerprints of all batches, once the last has come."""
        while self._take_in():
            pass
        return self.fingerprints

    def read_waiting(self) -> None:
        """Output so far, without waiting for more."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            while self._take_in():
                pass
        except BlockingIOError:
            pass
        finally:
            os.set_blocking(self.process.stdout.fileno(), True)

    def _take_in(self) -> bool:
        assert self.process.stdout is not None
        printed = os.read(self.process.stdout.fileno(), 1 << 16)
        *whole, self._unread = (self._unread + printed).split(b"\n")
        self.lines += [line.decode() for line in whole]
        return printed != b""

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> "ReaderProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    endpoint, spec, batch_size, epochs, transport = json.loads(sys.argv[1])
    with LoaderClient(endpoint, transport=transport) as loader:
        for batch in loader.stream(StreamSpec(**spec), batch_size).batches(range(epochs)):
            sys.stdout.write(f"{len(batch)} {fingerprint([batch])[0]}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
