"""Attackers against one service for a while, beside an honest client.

    python tests/bench/storm.py --seconds 600            a service without keys
    python tests/bench/storm.py --seconds 600 --keys     with keys; some attackers are admitted clients

The attackers (`tests/support/storm.py`) are threads of two processes. Ends with exit code 1 if the service ended, a
byte of the honest client's stream differs, or it took more memory or time than the limits below.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from click.testing import CliRunner

from common.client.client import LoaderClient
from common.spec import StreamSpec
from common.wire import keys
from common.wire.keys import ClientKeys
from tests.support.processes import LoaderProcess, memory_mib
from tests.support.reader import fingerprint
from tests.support.storm import Storm

MOST_MIB, MOST_WAIT_S = 300.0, 1.0
SPEC, BATCH = StreamSpec(split="train", seed=3, crop=64), 16


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def attack(
    endpoint: str, attackers: int, seed: int, key_folder: Path | None, ended: Event, made: "Queue[dict[str, int]]"
) -> None:
    own = ClientKeys.read(key_folder) if key_folder is not None else None
    with Storm(endpoint, attackers, seed, own) as storm:
        ended.wait()
    made.put(dict(storm.made))


class Sampler(threading.Thread):
    """The most memory a process was seen to hold, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.most, self.ended = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            try:
                self.most = max(self.most, memory_mib(self._pid))
            except (OSError, IndexError):
                return


def storm(seconds: float, attackers: int, seed: int, with_keys: bool, folder: Path) -> bool:
    from loader.cli.pack_command import main as pack

    data, key_folder = folder / "data", folder / "keys"
    packed = CliRunner().invoke(pack, ["--demo", str(data), "--demo-train", "150", "--demo-val", "40", "--jobs", "2"])
    assert packed.exit_code == 0, packed.output
    keys.make(key_folder)
    options = ["--keys", str(key_folder)] if with_keys else []
    used = key_folder if with_keys else None
    with LoaderProcess(data, folder, 1, "tcp://127.0.0.1:*", *options) as service:
        spawning = multiprocessing.get_context("spawn")
        ended, counts = spawning.Event(), spawning.Queue()
        halves = [
            spawning.Process(
                target=attack,
                args=(service.endpoint, attackers // 2, seed + 1000 * n, used, ended, counts),
                daemon=True,  # an error here ends them too
            )
            for n in range(2)
        ]
        with LoaderClient(service.endpoint, keys=used, timeout_s=60, transport="frames") as loader:
            stream = loader.stream(SPEC, BATCH)
            calm = fingerprint(stream.batches([0]))
            sampler = Sampler(service.process.pid)
            sampler.start()
            for half in halves:
                half.start()
            began = asked = time.monotonic()
            batches, longest, same = 0, 0.0, True
            for batch in stream.batches(itertools.repeat(0)):
                longest = max(longest, time.monotonic() - asked)
                (came,) = fingerprint([batch])
                same &= came == calm[batch.first // BATCH]
                batches += 1
                if time.monotonic() - began > seconds or service.process.poll() is not None:
                    break
                time.sleep(0.005)
                asked = time.monotonic()
        ended.set()
        made = sum((Counter(counts.get()) for _ in halves), Counter[str]())
        for half in halves:
            half.join()
        lives = service.process.poll() is None
        sampler.ended.set()
        sampler.join()
        restarts = service.log.read_text().count("serving ")
    say(
        f"{time.monotonic() - began:.0f} s, {'with' if with_keys else 'without'} keys, {attackers} attackers:"
        f" {sum(made.values()):,} attacks ({', '.join(f'{name} {count:,}' for name, count in sorted(made.items()))})"
    )
    say(
        f"service {'lives, the first process' if lives and restarts == 1 else 'ENDED'}; at most {sampler.most:.0f} MiB;"
        f" honest client: {batches:,} batches, digests {'equal' if same else 'DIFFER'}, longest wait {longest:.2f} s"
    )
    return lives and restarts == 1 and same and sampler.most < MOST_MIB and longest < MOST_WAIT_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--attackers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keys", action="store_true", help="the service has keys")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not storm(given.seconds, given.attackers, given.seed, given.keys, Path(name)):
            sys.exit(1)


if __name__ == "__main__":
    main()
