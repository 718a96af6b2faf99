"""One life of the service: datasets, workers and sockets."""

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common.decoder import name_of
from common.errors import DatasetError, UsageError
from common.host_memory import available_memory
from common.ranges import class_names_fault
from loader.cli.ready_file import ReadyFile
from loader.monitoring.exporter import Exporter
from loader.service.life import Announce
from loader.service.resources import raise_file_limit, share_files, spare_memory
from loader.service.signals import caught

if TYPE_CHECKING:  # they import ZeroMQ and LMDB, which the process that forks the service must never load
    from loader.dataset import Dataset
    from loader.service.service import Service

log = logging.getLogger(__name__)

MOST_WORKERS = 1024

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Settings of a service.

    workers        of all services, as `workers_file` holds them, which takes its place
    memory_bytes   of this one, as all other limits
    exporter       listens at --metrics
    number         of this service, one of `services` on cores of their own
    """

    data: Path
    workers: int = 1
    workers_file: Path | None = None
    keys: Path | None = None
    stream_bytes: int
    memory_bytes: int
    decoded_bytes: int = 0
    worker_timeout_s: float = 30.0
    pin: bool = False
    ready_file: ReadyFile | None = None
    exporter: Exporter | None = None
    number: int = 0
    services: int = 1

    def of(self, number: int) -> "ServeOptions":
        exporter = self.exporter.of(number) if self.exporter is not None else None
        return replace(self, number=number, exporter=exporter)

    def worker_count(self) -> int:
        """This service's own. Raises UsageError if the file does not hold 1 to MOST_WORKERS, or too few for all."""
        workers = self._all_workers()
        if workers < self.services:
            raise UsageError(f"{workers} workers are too few for {self.services} services (--workers, --services)")
        return len(share(range(workers), self.number, self.services))

    def _all_workers(self) -> int:
        if self.workers_file is None:
            return self.workers
        try:
            text = self.workers_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.workers_file} cannot be read: {error} (--workers-file)") from None
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_WORKERS):
            raise UsageError(
                f"{self.workers_file} holds {text[:20]!r}, not a number from 1 to {MOST_WORKERS} (--workers-file)"
            )
        return int(text)


def share(things: Sequence[Thing], number: int, services: int) -> Sequence[Thing]:
    """The part of service `number`; of things fewer than services, one that it shares."""
    if len(things) < services:
        return [things[number % len(things)]]
    return things[len(things) * number // services : len(things) * (number + 1) // services]


def serve(options: ServeOptions, bind: str, announce: Announce) -> None:
    """Serve at `bind` until SIGINT or SIGTERM; `announce` gets the endpoint once it is served."""
    if options.services > 1:
        os.sched_setaffinity(0, share(sorted(os.sched_getaffinity(0)), options.number, options.services))
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(caught(hangup=options.workers_file is not None))
        service, endpoint, description = _started(options, bind, stack)
        figures_at = options.exporter.url if options.exporter is not None else None

        def on_ready() -> None:
            log.info("serving %s%s", description, f"; figures at {figures_at}" if figures_at is not None else "")
            announce(endpoint)
            if options.ready_file is not None:
                options.ready_file.note(options.number, endpoint, figures_at)

        service.run(signals, on_ready, lambda: _resize(service, options))
        log.info("stopped")


def _started(options: ServeOptions, bind: str, stack: contextlib.ExitStack) -> "tuple[Service, str, str]":
    """The service with its workers starting, its endpoint, and a description for the log."""
    from common.images import jpeg
    from common.malloc import keep_in_one_arena
    from common.wire import sockets
    from common.wire.keys import ServerKeys
    from loader.service.access import Access
    from loader.service.counting import Counts
    from loader.service.keeper import Keeper
    from loader.service.listening import listen
    from loader.service.observing import Observer
    from loader.service.service import Service
    from loader.service.sessions import MemoryLimits
    from loader.workers.pool import WorkerPool

    workers = options.worker_count()
    files = share_files(raise_file_limit(), workers)
    decoder = jpeg.decoder()
    keys = ServerKeys.read(options.keys) if options.keys is not None else None
    if keys is not None:
        keep_in_one_arena()  # ZeroMQ's thread encrypts each batch in two blocks of its size
    datasets = {split: stack.enter_context(dataset) for split, dataset in open_datasets(options.data).items()}
    context = stack.enter_context(sockets.new_context())
    end, endpoint = listen(context, bind, keys)
    stack.callback(end.close)
    keeper = stack.enter_context(contextlib.closing(Keeper(datasets, options.decoded_bytes)))
    pool = WorkerPool(datasets, decoder, workers, options.worker_timeout_s, options.pin, keeper.kept)
    stack.callback(pool.stop)
    pool.staff()
    access = stack.enter_context(contextlib.closing(Access(context, end, keys, files.connections)))
    memory = MemoryLimits(options.stream_bytes, options.memory_bytes, files.streams)
    exporter = options.exporter
    if exporter is not None:
        stack.callback(exporter.close)
        exporter.staff()
    counts = Counts(
        exporter.figures if exporter is not None else None,
        ("unix" if endpoint.startswith("ipc:") else "tcp", keys is not None),
    )
    observer = Observer(counts.figures, exporter, datasets, pool, access, keeper)
    service = Service(end.socket, access, datasets, decoder, pool, memory, keeper, counts, observer)
    stack.callback(service.close)
    sizes = ", ".join(f"{split} {dataset.records:,} records" for split, dataset in datasets.items())
    secrecy = "encrypted" if keys is not None else "unencrypted"
    for dataset in datasets.values():
        log.info("%s: digest %s", dataset.path, dataset.digest.hex())
    log.info("JPEG codec: %s", name_of(decoder))
    return service, endpoint, f"{options.data} ({sizes}) on {endpoint}, {secrecy}, with {workers} workers"


def open_datasets(data: Path) -> "dict[str, Dataset]":
    """Raises UsageError if there is no split, DatasetError if they do not match."""
    from loader.dataset import Dataset

    datasets = {split: Dataset(path) for split, path in _paths(data).items()}
    if not datasets:
        raise UsageError(f"{data} holds neither train.lmdb nor val.lmdb; alexnet-pack makes them (--data)")
    for dataset in datasets.values():
        if fault := class_names_fault(dataset.classes):
            raise DatasetError(f"{dataset.path} cannot be served: {fault}; rename its folder and pack again")
    first, *others = datasets.values()
    for other in others:
        if (first.classes, first.stats.to_fields()) != (other.classes, other.stats.to_fields()):
            raise DatasetError(
                f"{other.path} was not packed with {first.path}: its classes or mean image differ; pack both again"
            )
    return datasets


def bytes_for_decoded(asked_gib: float | None, data: Path) -> int:
    """Memory for decoded images, no more than can be spared; by default a quarter of what is available."""
    spare = max(0, spare_memory())
    if asked_gib is None:
        available, files = available_memory(), sum(path.stat().st_size for path in _paths(data).values())
        return max(0, min(available // 4, available - files, spare))  # in the page cache, a JPEG takes an eighth
    if math.isnan(asked_gib):  # which is in every range
        raise UsageError("--decoded-gib is nan; it is a number of GiB")
    asked = int(asked_gib * 2**30)
    if asked > spare:
        log.warning("--decoded-gib %g: no more than %.1f GiB of memory can be spared", asked_gib, spare / 2**30)
    return min(asked, spare)


def _paths(data: Path) -> dict[str, Path]:
    paths = {split: data / f"{split}.lmdb" for split in ("train", "val")}
    return {split: path for split, path in paths.items() if path.exists()}


def _resize(service: "Service", options: ServeOptions) -> None:
    try:
        workers = options.worker_count()
    except UsageError as error:
        log.warning("%s; the number of workers stays", error)
    else:
        service.resize(workers)
        log.info("%d workers from now on", workers)
