"""Rows of loader.py: this loader, one service each, by transport, secrecy and what it keeps."""

import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.client.client import LoaderClient
from common.client.stream_sessions import Transport
from common.spec import STORED_SIZE, StreamSpec
from common.wire import keys
from tests.bench import contenders
from tests.bench.measured_process import MeasuredProcess
from tests.support.processes import LoaderProcess
from tests.support.scrapes import ask, scrape

BATCH = 128
SPEC = StreamSpec(split="train", seed=0, crop=contenders.CROP, sigma=contenders.SIGMA)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Setting:
    """The part that all rows share; `stack` ends all that they start."""

    data: Path
    folder: Path
    records: int
    workers: int
    stack: ExitStack

    @property
    def decoded_gib(self) -> float:
        """Memory of all records, decoded."""
        return self.records * STORED_SIZE**2 * 3 / 2**30


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that the processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(of[11]) + int(of[12]) for of in fields) / _TICKS_PER_S


def memory_mb(pid: int) -> float:
    """Memory of a process without shared memory and the dataset's file, in 10^6 bytes."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0]:
            counted = not (len(head) > 5 and re.search("memfd:|alexnet-kept|[.]lmdb$", head[5]))
        elif head[0] == "Rss:" and counted:
            total += int(head[1])
    return total * 1024 / 1e6


def started(setting: Setting, workers: int, decoded_gib: float = 0.0, *options: str) -> LoaderProcess:
    kept = "--decoded-gib", f"{decoded_gib:.4f}"
    service = LoaderProcess(setting.data, setting.folder, workers, "tcp://127.0.0.1:*", *kept, *options)
    return setting.stack.enter_context(service)


def have_at_hand(size: int) -> None:
    """Touch so many bytes of memory and free them: the host of a virtual machine gives slowly what it took back."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1


class Ours:
    """A service and a client of it, which has read `epochs` epochs before it is measured."""

    def __init__(
        self,
        setting: Setting,
        transport: Transport,
        *,
        workers: int = 0,
        lend: bool = False,
        encrypted: bool = False,
        decoded_gib: float = 0.0,
        epochs: int = 0,
        more: tuple[str, ...] = (),
    ) -> None:
        key_folder = setting.folder / "keys" if encrypted else None
        if key_folder is not None and not key_folder.exists():
            keys.make(key_folder)
        began = time.perf_counter()
        options = [*more, *(["--keys", str(key_folder)] if key_folder is not None else [])]
        self._service = started(setting, workers or setting.workers, decoded_gib, *options)
        self.ready_s = time.perf_counter() - began
        began = time.perf_counter()
        client = setting.stack.enter_context(LoaderClient(self._service.endpoint, transport=transport, keys=key_folder))
        batches = client.stream(SPEC, BATCH).batches(range(10**6), lend=lend)
        next(batches)
        self.first_batch_ms = (time.perf_counter() - began) * 1e3
        for batch in batches if epochs else ():
            if batch.epoch == epochs:
                break
        self._sizes = (len(batch) for batch in batches)
        self.images = 0
        self._memory: list[dict[str, float]] = []  # after each round
        self._cpu_s = {"workers": 0.0, "service": 0.0, "client": 0.0}

    def run(self, seconds: float) -> float:
        """Images a second."""
        before = self._cpu()
        images, rate = contenders.counted(self._sizes, seconds)
        for part, after in self._cpu().items():
            self._cpu_s[part] += after - before[part]
        self.images += images
        self._memory.append(self._memory_mb())
        return rate

    @property
    def cpu_us(self) -> dict[str, float]:
        """Processor time an image, by process."""
        return {part: spent / self.images * 1e6 for part, spent in self._cpu_s.items()}

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
        each = ", ".join(f"{part} {us:.0f}" for part, us in self.cpu_us.items())
        early, last = self._memory[:2][-1], self._memory[-1]  # in the first round torch is imported here
        memory = ", ".join(f"{part} {last[part]:.0f} MB ({last[part] - early[part]:+.1f})" for part in last)
        return (
            f"CPU us an image: {each}; memory outside the slab: {memory}, in brackets since the second round, over"
            f" {self.images:,} images; ready {self.ready_s:.2f} s after its start; first batch"
            f" {self.first_batch_ms:.0f} ms after HELLO"
        )


class Scraped(Ours):
    """A service with --metrics, scraped all the time that it is measured, `SCRAPES_PER_S` times a second."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, "slab", lend=True, more=("--metrics", "127.0.0.1:*"))
        (self._url,) = self._service.figures_at
        self._setting, self._scrapes = setting, 0.0
        self._scraper = setting.stack.enter_context(MeasuredProcess(partial(_scrapes_of, self._url)))
        (self._responder,) = [pid for pid in self._service.workers if b"responder" in _command_line(pid)]
        self._cpu_s["figures"] = 0.0

    def run(self, seconds: float) -> float:
        """Images a second."""
        self._scraper.begin(seconds)
        rate = super().run(seconds)
        self._scrapes += self._scraper.rate() * seconds
        return rate

    def _cpu(self) -> dict[str, float]:
        spent, figures = super()._cpu(), cpu_seconds([self._responder])
        return spent | {"workers": spent["workers"] - figures, "figures": figures}

    def told(self) -> str:
        each_ms = self._cpu_s["figures"] / max(self._scrapes, 1) * 1e3
        return (
            f"{super().told()}; {self._scrapes:.0f} scrapes, {each_ms:.2f} ms of a core each, which is"
            f" {each_ms / 150:.3f} % of one at a scrape in 15 s; {self._epoch_told()}"
        )

    def _epoch_told(self) -> str:
        """An epoch of a second client, as it and the figures count it."""
        before = self._settled_images()
        self._scraper.begin(1.0)
        with LoaderClient(self._service.endpoint, transport="slab") as client:
            images = sum(len(batch) for batch in client.stream(replace(SPEC, seed=1), BATCH).batches([0], lend=True))
            counted = scrape(self._url).total("images_total") - before
        self._scraper.rate()
        return f"an epoch of {images:,} images was counted as {counted:,.0f}"

    def _settled_images(self) -> float:
        """Images answered, once nothing is in flight to the client that was measured."""
        counts = [-1.0, scrape(self._url).total("images_total")]
        while counts[-1] != counts[-2]:
            time.sleep(0.5)
            counts.append(scrape(self._url).total("images_total"))
        return counts[-1]


SCRAPES_PER_S = 5  # 75 times as many as Prometheus makes


def _scrapes_of(url: str) -> Iterator[int]:
    """1 for each scrape. The text is not parsed, which Prometheus does on another host."""
    due = time.monotonic()
    while True:
        due = max(due + 1 / SCRAPES_PER_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        answer = ask(url, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
        yield 1


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class FirstEpoch:
    """The first epoch of a new service each time, from HELLO to its end; `keep`s its images."""

    def __init__(self, setting: Setting, *, keep: bool) -> None:
        self._setting, self._keep = setting, keep

    def run(self, _seconds: float) -> float:
        """Images a second."""
        with ExitStack() as stack:
            setting = replace(self._setting, stack=stack)
            service = started(setting, setting.workers, setting.decoded_gib if self._keep else 0.0)
            have_at_hand(int(setting.decoded_gib * 2**30))
            client = stack.enter_context(LoaderClient(service.endpoint, transport="slab"))
            began = time.perf_counter()
            images = sum(len(batch) for batch in client.stream(SPEC, BATCH).batches([0], lend=True))
            return images / (time.perf_counter() - began)


class Sharing:
    """Clients of one service that read the same order, each a process."""

    def __init__(self, setting: Setting, clients: int) -> None:
        service = started(setting, setting.workers)
        sizes = partial(_sizes_of, service.endpoint)
        self._clients = [setting.stack.enter_context(MeasuredProcess(sizes)) for _ in range(clients)]

    def run(self, seconds: float) -> float:
        """Images a second of all together."""
        for client in self._clients:
            client.begin(seconds)
        return sum(client.rate() for client in self._clients)


def _sizes_of(endpoint: str) -> Iterator[int]:
    with LoaderClient(endpoint, transport="slab") as client:
        for batch in client.stream(SPEC, BATCH).batches(range(10**6), lend=True):
            yield len(batch)
