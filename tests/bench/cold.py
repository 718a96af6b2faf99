"""The loader on data that are not in memory, beside the same data in memory, in one run.

    python tests/bench/cold.py [--data PHOTOS] [--records 60000] [--disk FOLDER] [--ms 2] [--before CHECKOUT]

PHOTOS is what alexnet-pack takes; without it images are generated. Their records, repeated, in shuffled order, are the
dataset, in a temporary folder of FOLDER. Rounds of all contenders alternate, each with a service of its own; no round
lasts beyond its epoch, so no record is read twice. Figures are medians, with the lowest and highest.

    warm          all in memory
    cold          nothing in memory: dropped if this may be, else evicted file by file
    slow          cold, and each read takes --ms: through FUSE, which needs root
    before ...    the same with the code of another checkout

Reads an image count what is asked for ahead of the last batch too, up to 64 MiB: make rounds long beside that.
A service takes data for larger than memory by their file's size, to which a hole is added. With --memory-mib the
services of `cold` and `slow` may not have more memory than that, page cache included; that needs cgroups and root.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.environ.get("COLD_CHECKOUT") or str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]
os.environ["ALEXNET_LOADER_DECODED_GIB"] = "0"  # reading is measured, not keeping

from common.client.client import LoaderClient
from common.spec import StreamSpec
from loader.dataset import Dataset
from loader.records import digest_of, extend_chain, record_bytes
from tests.support.bad_records import progress_of
from tests.support.processes import LoaderProcess

BATCH = 128
_COMMIT = 2000
_CGROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # version 1 and 2


def grown(once: Path, path: Path, records: int) -> None:
    """Write a split of so many records: those of `once`, repeated, each time in another order."""
    from loader.packing.dataset_writer import Writer  # which older checkouts have elsewhere

    with Dataset(once) as dataset, Writer(path) as writer:
        values = [record_bytes(*dataset.read(record)) for record in range(dataset.records)]
        chain, draws = b"", random.Random(0)
        for first in range(0, records, _COMMIT):
            chunk = draws.choices(values, k=min(_COMMIT, records - first))
            for value in chunk:
                chain = extend_chain(chain, value)
            writer.commit(first, chunk, [], progress_of(dataset.meta))
        digest = digest_of(chain, "train", dataset.classes, dataset.stats)
        writer.finish(replace(dataset.meta, records=records, digest=digest))


def enlarge(path: Path) -> None:
    """Add a hole: a service takes the data for larger than memory."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        file.truncate(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def evict(path: Path) -> str:
    """Take a file out of memory; return the way."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return "evicted"
    return "dropped"


def take_in(path: Path, used: int) -> None:
    with path.open("rb", buffering=0) as file:
        while file.tell() < used and file.read(1 << 24):
            pass


@contextmanager
def bounded(mib: int | None) -> Iterator[list[str]]:
    """A prefix of commands that may have so much memory."""
    if mib is None:
        yield []
        return
    root = next(root for root in _CGROUPS if (root / "cgroup.procs").exists())
    group = root / f"cold-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if root == _CGROUPS[0] else "memory.max")).write_text(str(mib << 20))
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # its processes are still ending
                time.sleep(0.05)


def disk_reads(folder: Path) -> tuple[float, float]:
    """Reads of the disk that `folder` is on, and the sum of their times in flight in seconds; NaN if not told."""
    device = folder.stat().st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        numbers, fields = line.split()[:2], line.split()
        if numbers == [str(os.major(device)), str(os.minor(device))]:
            return float(fields[3]), float(fields[6]) / 1e3
    return math.nan, math.nan


@contextmanager
def slow(folder: Path, mountpoint: Path, ms: float) -> Iterator[subprocess.Popen[str]]:
    mountpoint.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("slow_disk.py")), str(folder), str(mountpoint)]
    with subprocess.Popen(
        [*command, "--ms", str(ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "mounted\n":
            raise SystemExit("no slow disk: FUSE cannot be mounted here")
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait()


def one_round(data: Path, folder: Path, workers: int, seconds: float, most: int, prefix: list[str]) -> None:
    """Print images, seconds, and milliseconds until the first batch, as JSON."""
    with LoaderProcess(data, folder, workers, prefix=prefix) as service, LoaderClient(service.endpoint) as client:
        began = time.perf_counter()
        batches = client.stream(StreamSpec(seed=random.randrange(1 << 30)), BATCH).batches([0], lend=True)
        images = len(next(batches))
        first_s = time.perf_counter() - began
        while images < most - 30 * BATCH and time.perf_counter() - began < seconds:
            images += len(next(batches))
        sys.stdout.write(json.dumps([images, time.perf_counter() - began, first_s * 1e3]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--records", type=int, default=60_000, help="of 24 kB each: the disk must hold them")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; the temporary one if not given")
    parser.add_argument("--ms", type=float, default=2.0, help="of a read of the slow disk; 0 leaves it out")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--memory-mib", type=int, help="memory of a cold service; without, all that there is")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each contender in each round, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one-round", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_round:
        data, folder, *rest = json.loads(given.one_round)
        one_round(Path(data), Path(folder), *rest)
        return
    from tests.bench import photos

    with tempfile.TemporaryDirectory(dir=given.disk) as name, ExitStack() as stack:
        folder = Path(name).resolve()
        data = folder / "grown"
        data.mkdir()
        once = photos.packed_records(given.data, folder, 1000) / "train.lmdb"
        grown(once, data / "train.lmdb", given.records)
        enlarge(data / "train.lmdb")
        disks: dict[str, tuple[Path, subprocess.Popen[str] | None]] = {"warm": (data, None), "cold": (data, None)}
        if given.ms > 0:
            disks["slow"] = folder / "slow", stack.enter_context(slow(data, folder / "slow", given.ms))
        prefix = stack.enter_context(bounded(given.memory_mib))
        checkouts = {"": Path(sys.path[0])} | ({"before ": given.before.resolve()} if given.before else {})
        contenders = [(before, state) for state in disks for before in checkouts]
        rates: dict[str, list[dict[str, float]]] = {before + state: [] for before, state in contenders}
        for number in range(given.rounds):
            for before, state in contenders:
                path, server = disks[state]
                figures = _measured(path, folder, state, checkouts[before], server, prefix, given)
                rates[before + state].append(figures)
            done = ", ".join(f"{name} {of[-1]['rate']:.0f}" for name, of in rates.items())
            sys.stdout.write(f"round {number + 1}: {done}\n")
            sys.stdout.flush()
        report(rates)


def _measured(
    data: Path,
    folder: Path,
    state: str,
    checkout: Path,
    server: "subprocess.Popen[str] | None",
    prefix: list[str],
    given: argparse.Namespace,
) -> dict[str, float]:
    path = data / "train.lmdb"
    evict(path)
    if server is not None:  # what lies behind it is in memory
        take_in(path.parents[1] / "grown" / path.name, given.records * 26_000)
    if state == "warm":
        take_in(path, given.records * 26_000)
    before = _reads(server, data)
    options = [str(data), str(folder), given.workers, given.seconds, given.records]
    round_of = json.dumps([*options, prefix if state != "warm" else []])
    environment = {**os.environ, "COLD_CHECKOUT": str(checkout)}
    told = subprocess.run(  # in the checkout's folder, which `python -m` prefers to all others
        [sys.executable, os.path.abspath(__file__), "--one-round", round_of],
        cwd=checkout, env=environment, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    images, seconds, first_ms = json.loads(told.stdout)
    reads, in_flight_s = (now - then for now, then in zip(_reads(server, data), before, strict=True))
    rate = images / seconds
    return {"rate": rate, "first_ms": first_ms, "reads": reads / images, "in_flight": in_flight_s / seconds}


def _reads(server: "subprocess.Popen[str] | None", data: Path) -> tuple[float, float]:
    if server is None:
        return disk_reads(data)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write("?\n")
    server.stdin.flush()
    reads, in_flight_s = server.stdout.readline().split()
    return float(reads), float(in_flight_s)


def report(rates: dict[str, list[dict[str, float]]]) -> None:
    sys.stdout.write(
        f"{'':12}{'images/s':>9}  {'lowest..highest':<18}{'of warm':>8}{'first batch':>12}{'reads/image':>12}"
        f"{'in flight':>10}\n"
    )
    for name, rounds in rates.items():
        of = [figures["rate"] for figures in rounds]
        share = statistics.median(a / b["rate"] for a, b in zip(of, rates["warm"], strict=True))
        first, reads, flight = (statistics.median(f[key] for f in rounds) for key in ("first_ms", "reads", "in_flight"))
        told = f"{reads:>12.2f}{flight:>10.1f}" if not math.isnan(reads) else f"{'not available':>22}"
        spread = f"{min(of):.0f}..{max(of):.0f}"
        sys.stdout.write(f"{name:12}{statistics.median(of):>9.0f}  {spread:<18}{share:>8.2f}{first:>9.0f} ms{told}\n")


if __name__ == "__main__":
    main()
