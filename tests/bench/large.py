"""A service of as many records as ImageNet has: its start, the switch of epochs, orders, memory.

    python tests/bench/large.py [--records 1281167] [--disk FOLDER] [--workers 2] [--seconds 10] [--streams 7]
                                [--rounds 3] [--decoded-gib 0] [--before CHECKOUT] [--data FOLDER]

The records are drawn JPEGs of 256x256 that take a page of 4 KiB each, 5.8 GB in a temporary folder of FOLDER; --data
names a dataset that is there instead. Each round has a service of its own, with --before one of another checkout too.

    ready       seconds from the command to a service that is ready
    first       milliseconds from HELLO to the first batch
    one         a stream within an epoch: images/s, the longest wait for a batch in milliseconds, and microseconds of
                the workers' processor time an image
    switch      milliseconds, the longest wait for a batch of the 400 around an epoch's end
    several     the same as `one` for --streams streams of different seeds, a batch of each in turn
    service, worker   MB of memory without slabs, dataset and decoded images; the largest worker
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.environ.get("LARGE_CHECKOUT") or str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

import numpy as np

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess

BATCH, DRAWN, AROUND = 128, 200, 200


def drawn(folder: Path) -> Path:
    """Smooth images, whose JPEGs take 2 to 4 kB."""
    from common.images import jpeg

    y, x = np.mgrid[0:256, 0:256]
    for number in range(DRAWN):
        a, b, c = np.random.default_rng(number).uniform(150, 400, 3)
        rgb = 128 + 100 * np.stack([np.sin(x / a + y / b), np.cos(x / c - y / a), np.sin((x + y) / (b + c))], axis=-1)
        target = folder / "train" / f"class{number % 10}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg.encode(np.clip(rgb, 0, 255).astype(np.uint8), 90))
    return folder


def read(name: str, batches: Iterator[Batch], seconds: float, workers: list[int]) -> dict[str, float]:
    from tests.bench.services import cpu_seconds

    images, longest_s, began, before_s = 0, 0.0, time.perf_counter(), cpu_seconds(workers)
    until = began + seconds
    while (asked := time.perf_counter()) < until and (batch := next(batches, None)) is not None:
        longest_s = max(longest_s, time.perf_counter() - asked)
        images += len(batch)
    return {
        f"{name}: images/s": images / (time.perf_counter() - began),
        f"{name}: wait": longest_s * 1e3,
        f"{name}: us": (cpu_seconds(workers) - before_s) / images * 1e6,
    }


def one_round(data: Path, folder: Path, workers: int, seconds: float, streams: int, decoded_gib: str) -> None:
    """Print the figures of a service as JSON."""
    from tests.bench.services import memory_mb

    figures, began = dict[str, float](), time.perf_counter()
    options = ("--decoded-gib", decoded_gib) if decoded_gib else ()
    with LoaderProcess(data, folder, workers, "tcp://127.0.0.1:*", *options) as service:
        figures["ready"] = time.perf_counter() - began
        with LoaderClient(service.endpoint) as client:
            began = time.perf_counter()
            stream = client.stream(StreamSpec(seed=1), BATCH)
            batches = stream.batches([0], lend=True)
            next(batches)
            figures["first"] = (time.perf_counter() - began) * 1e3
            figures |= read("one", batches, seconds, service.workers)
            records = stream.info.records
            batches = stream.batches(range(2), first=max(0, records - AROUND * BATCH), end=records, lend=True)
            waits = []
            for _ in range(2 * AROUND):
                asked = time.perf_counter()
                next(batches)
                waits.append((time.perf_counter() - asked) * 1e3)
            figures["switch"] = max(waits[20:])  # the first wait for what is in flight
        with LoaderClient(service.endpoint) as client:
            several = [client.stream(StreamSpec(seed=seed), BATCH).batches([0], lend=True) for seed in range(streams)]
            for batches in several:
                next(batches)
            in_turn = (next(batches) for _ in range(1 << 30) for batches in several)
            figures |= read("several", in_turn, seconds, service.workers)
        figures["service"] = memory_mb(service.pid)
        figures["worker"] = max(memory_mb(pid) for pid in service.workers)
    sys.stdout.write(json.dumps(figures) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_281_167)
    parser.add_argument("--disk", type=Path, help="folder on a disk with room; the temporary one if not given")
    parser.add_argument("--data", type=Path, help="a packed dataset")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of a rate")
    parser.add_argument("--streams", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decoded-gib", default="", help="of the services; their default if not given")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--one-round", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_round:
        data, folder, *rest = json.loads(given.one_round)
        one_round(Path(data), Path(folder), *rest)
        return
    with tempfile.TemporaryDirectory(dir=given.disk) as name:
        folder = Path(name).resolve()
        data = given.data or made(folder, given.records)
        checkouts = {"now": Path(sys.path[0])} | ({"before": given.before.resolve()} if given.before else {})
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        for _ in range(given.rounds):
            for name, checkout in checkouts.items():
                rounds[name].append(measured(checkout, data.resolve(), folder, given))
        for name, of in rounds.items():
            for figure in of[0]:
                values = [each[figure] for each in of]
                told = f"{statistics.median(values):10.4g} ({min(values):.4g} to {max(values):.4g})"
                sys.stdout.write(f"{name:8}{figure:20}{told}\n")


def made(folder: Path, records: int) -> Path:
    from tests.bench import cold, photos

    data = folder / "grown"
    data.mkdir()
    began = time.perf_counter()
    once = photos.packed_records(drawn(folder / "drawn"), folder, DRAWN)
    cold.grown(once / "train.lmdb", data / "train.lmdb", records)
    size = (data / "train.lmdb").stat().st_blocks * 512 / 1e9
    sys.stdout.write(f"{records:,} records of {size:.2f} GB, made in {time.perf_counter() - began:.0f} s\n")
    return data


def measured(checkout: Path, data: Path, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    options = [str(data), str(folder), given.workers, given.seconds, given.streams, given.decoded_gib]
    told = subprocess.run(  # in the checkout's folder, which `python -m` prefers to all others
        [sys.executable, os.path.abspath(__file__), "--one-round", json.dumps(options)],
        cwd=checkout, env={**os.environ, "LARGE_CHECKOUT": str(checkout)}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(told.stdout)
    return figures


if __name__ == "__main__":
    main()
