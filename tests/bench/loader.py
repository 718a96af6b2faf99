"""The loader beside the speed of the JPEG decoder and beside a torch DataLoader, in one run.

    python tests/bench/loader.py [--data PHOTOS] [--workers 2] [--seconds 5] [--rounds 5]

PHOTOS is what alexnet-pack takes: train/<class>/*, or a .tar of it; made pictures without it. All read the same
10,000 records of 256x256, quality 90, and deliver batches of 128 x 227 x 227 x 3 bytes, cropped, flipped and coloured,
to this process. Rounds of all contenders alternate; figures are medians, with the lowest and highest.

    limit     libjpeg-turbo alone, as many processes as workers
    slab      this loader, pixels through shared memory, lent as to its own trainer: batches(lend=True)
    owned     the same, each batch copied into memory of its own, as batches() gives it
    frames    this loader, pixels over tcp on loopback
    curve     the same, encrypted
    many      this loader by slab, with eight times the workers
    torch     a torch DataLoader: LMDB, PyTurboJPEG, the same augmentation in numpy
    tf.data, DALI, SPDL, FFCV   where they are installed: see others.py
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from common.client.client import LoaderClient
from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from common.wire import keys
from tests.bench import contenders, others, photos
from tests.support.processes import LoaderProcess

BATCH = 128
SPEC = StreamSpec(split="train", seed=0, crop=contenders.CROP, sigma=contenders.SIGMA)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that the processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(of[11]) + int(of[12]) for of in fields) / _TICKS_PER_S


def memory_mb(pid: int) -> float:
    """Memory of a process without slabs and the dataset's file, in 10^6 bytes."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0]:
            counted = not (len(head) > 5 and ("alexnet-slab" in head[5] or head[5].endswith(".lmdb")))
        elif head[0] == "Rss:" and counted:
            total += int(head[1])
    return total * 1024 / 1e6


class Ours:
    """One service and one client of it."""

    def __init__(
        self,
        stack: ExitStack,
        data: Path,
        folder: Path,
        workers: int,
        transport: Transport,
        key_folder: Path | None = None,
        *,
        lend: bool = False,
    ) -> None:
        started = time.perf_counter()
        secrecy = ["--keys", str(key_folder)] if key_folder is not None else []
        self._service = stack.enter_context(LoaderProcess(data, folder, workers, "tcp://127.0.0.1:*", *secrecy))
        self.ready_s = time.perf_counter() - started
        started = time.perf_counter()
        client = stack.enter_context(LoaderClient(self._service.endpoint, transport=transport, keys=key_folder))
        batches = client.stream(SPEC, BATCH).batches(range(10**6), lend=lend)
        next(batches)
        self.first_batch_ms = (time.perf_counter() - started) * 1e3
        self._sizes = (len(batch) for batch in batches)
        self.images = 0
        self._memory: list[dict[str, float]] = []  # after each round
        self.cpu = {"workers": 0.0, "service": 0.0, "client": 0.0}

    def run(self, seconds: float) -> float:
        before = self._cpu()
        images, rate = contenders.counted(self._sizes, seconds)
        for part, after in self._cpu().items():
            self.cpu[part] += after - before[part]
        self.images += images
        self._memory.append(self._memory_mb())
        return rate

    def _memory_mb(self) -> dict[str, float]:
        return {
            "worker": max(memory_mb(pid) for pid in self._service.workers),
            "service": memory_mb(self._service.process.pid),
            "client": memory_mb(os.getpid()),
        }

    def _cpu(self) -> dict[str, float]:
        return {
            "workers": cpu_seconds(self._service.workers),
            "service": cpu_seconds([self._service.process.pid]),
            "client": cpu_seconds([os.getpid()]),
        }

    def told(self) -> str:
        each = ", ".join(f"{part} {spent / self.images * 1e6:.0f}" for part, spent in self.cpu.items())
        early, last = self._memory[:2][-1], self._memory[-1]  # in the first round torch is imported here
        memory = ", ".join(f"{part} {last[part]:.0f} MB ({last[part] - early[part]:+.1f})" for part in last)
        return (
            f"CPU us an image: {each}; memory outside the slab: {memory}, in brackets since the second round, over"
            f" {self.images:,} images; ready {self.ready_s:.2f} s after its start; first batch"
            f" {self.first_batch_ms:.0f} ms after HELLO"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contender in each round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        data = photos.packed_records(given.data, folder, given.records)
        slab = Ours(stack, data, folder, given.workers, "slab", lend=True)
        owned = Ours(stack, data, folder, given.workers, "slab")
        frames = Ours(stack, data, folder, given.workers, "frames")
        key_folder = folder / "keys"
        keys.make(key_folder)
        curve = Ours(stack, data, folder, given.workers, "frames", key_folder)
        many = Ours(stack, data, folder, 8 * given.workers, "slab", lend=True)
        torch_sizes = contenders.torch_batches(data, given.workers, BATCH)
        runs: dict[str, Callable[[], float]] = {
            "limit": lambda: contenders.bare_decoding(data, given.workers, given.seconds),
            "slab": lambda: slab.run(given.seconds),
            "owned": lambda: owned.run(given.seconds),
            "frames": lambda: frames.run(given.seconds),
            "curve": lambda: curve.run(given.seconds),
            "many": lambda: many.run(given.seconds),
            "torch": lambda: contenders.counted(torch_sizes, given.seconds)[1],
        }
        for name in filter(others.is_installed, others.OTHERS):
            if (other := others.Other(name, data, given.workers, BATCH)).works():
                runs[name] = partial(other.run, given.seconds)
        rates: dict[str, list[float]] = {contender: [] for contender in runs}
        for number in range(given.rounds):
            for contender, run in runs.items():
                rates[contender].append(run())
            done = ", ".join(f"{contender} {of[-1]:.0f}" for contender, of in rates.items())
            sys.stdout.write(f"round {number + 1}: {done}\n")
        report(rates, {"slab": slab, "owned": owned, "frames": frames, "curve": curve, "many": many})


def report(rates: dict[str, list[float]], ours: dict[str, Ours]) -> None:
    sys.stdout.write(f"{'':8}{'images/s':>10}  {'lowest..highest':<18}{'of limit':>9}{'of torch':>9}\n")
    for contender, of in rates.items():
        shares = [
            statistics.median(a / b for a, b in zip(of, rates[other], strict=True)) for other in ("limit", "torch")
        ]
        spread = f"{min(of):.0f}..{max(of):.0f}"
        sys.stdout.write(
            f"{contender:8}{statistics.median(of):>10.0f}  {spread:<18}{shares[0]:>9.2f}{shares[1]:>9.2f}\n"
        )
    if missing := [name for name in others.OTHERS if name not in rates]:
        sys.stdout.write(f"not installed, or failed above: {', '.join(missing)}\n")
    for contender, run in ours.items():
        sys.stdout.write(f"{contender}: {run.told()}\n")


if __name__ == "__main__":
    main()
