"""Nearly valid messages to a service, beside an honest client whose batches must be right throughout.

    python tests/bench/fuzz_wire.py [--count 1000000] [--seed 0]

Ends with exit code 1 if the service or a worker died, the honest client got a wrong byte, memory grew, or a burst of
messages took longer than one may, twice: the machine may have been busy.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.client.client import LoaderClient
from common.spec import StreamSpec
from tests.bench import photos
from tests.support.processes import LoaderProcess, alive, memory_mib
from tests.support.reader import fingerprint
from tests.support.wire_fuzz import Attacker

BURST, BURSTS_OF_AN_ATTACKER = 50, 100
LIMIT_S = 0.25  # of a burst, and so of each of its messages
GROWTH_MIB = 20.0
SPEC = StreamSpec(split="train", seed=3, crop=64)
SMALL = ["--stream-mib", "16", "--memory-mib", "300"]


class Fuzz:
    """Attackers of one service, and their findings."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.sent, self.longest_s, self.hangs, self.again = 0, 0.0, 0, 0
        self.answers = Counter[str]()

    def attack(self, seed: int) -> None:
        """One attacker's messages."""
        with zmq.Context() as context, contextlib.closing(Attacker(context, self._endpoint, seed)) as attacker:
            for _ in range(BURSTS_OF_AN_ATTACKER):
                attacker.renew()
                burst = attacker.burst(BURST)
                took_s = self._timed(attacker, burst)
                if took_s > LIMIT_S:
                    self.again += 1
                    took_s = min(self._timed(attacker, burst) for _ in range(3))
                self.hangs += took_s > LIMIT_S
                self.longest_s = max(self.longest_s, took_s)
                self.sent += BURST
            self.answers += attacker.answers

    @staticmethod
    def _timed(attacker: Attacker, burst: list[list[bytes]]) -> float:
        started = time.perf_counter()
        attacker.send(burst)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="messages")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = photos.packed_records(None, Path(name), 500)
        with LoaderProcess(data, Path(name), 2, "tcp://127.0.0.1:*", *SMALL) as service:
            with LoaderClient(service.endpoint, timeout_s=60) as loader:
                sys.exit(run(service, loader, given.count, given.seed))


def run(service: LoaderProcess, loader: LoaderClient, count: int, seed: int) -> int:
    stream = loader.stream(SPEC, 64)
    truth = fingerprint(stream.batches([0]))
    fuzz, batches, memory, started = Fuzz(service.endpoint), 0, list[tuple[float, float]](), time.perf_counter()
    workers = service.workers
    while fuzz.sent < count:
        fuzz.attack(seed + fuzz.sent)
        came = fingerprint(stream.batches([0]))
        batches += len(came)
        memory.append((memory_mib(service.process.pid), max(map(memory_mib, service.workers))))
        if came != truth or not all(map(alive, [service.process.pid, *workers])) or service.workers != workers:
            sys.stdout.write(f"after {fuzz.sent:,} messages of seed {seed}: wrong batches, or somebody died\n")
            return 1
        if len(memory) % 20 == 0:
            sys.stdout.write(f"{fuzz.sent:,} messages, {time.perf_counter() - started:.0f} s\n")
            sys.stdout.flush()
    early, last = memory[min(len(memory) // 5, len(memory) - 1)], memory[-1]
    grown = max(now - before for now, before in zip(last, early, strict=True))
    sys.stdout.write(
        f"{fuzz.sent:,} messages in {time.perf_counter() - started:.0f} s, answers: {dict(fuzz.answers)};"
        f" {batches:,} batches of the honest client, all right;"
        f" longest burst of {BURST}: {fuzz.longest_s * 1e3:.0f} ms ({fuzz.again} sent again, {fuzz.hangs}"
        f" over {LIMIT_S * 1e3:.0f} ms); memory since a fifth of the way: service {last[0]:.0f} MiB"
        f" ({last[0] - early[0]:+.1f}), largest worker {last[1]:.0f} MiB ({last[1] - early[1]:+.1f});"
        f" log {len(service.log.read_text()) >> 10} KiB\n"
    )
    return int(fuzz.hangs > 0 or grown > GROWTH_MIB)


if __name__ == "__main__":
    main()
