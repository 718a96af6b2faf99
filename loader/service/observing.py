"""The state of the service's parts for --metrics, looked at now and then."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from loader.dataset import Dataset
from loader.monitoring.exporter import Exporter
from loader.monitoring.figures import (
    CLIENTS,
    CONNECTIONS,
    CRASHES,
    CREDIT,
    FAILED_STARTS,
    KEPT,
    MEMORY,
    QUEUED,
    RECORDS,
    REFUSED_CONNECTIONS,
    SLOTS,
    SLOTS_IN_USE,
    STARTED,
    STARTS,
    STREAMS,
    TURNED,
    WORKERS,
    WORKERS_WANTED,
    Figure,
    Figures,
)
from loader.service.access import Access
from loader.service.keeper import Keeper
from loader.service.sessions import Sessions
from loader.workers.pool import WorkerPool

_LOOK_S = 0.5
_STATM = Path("/proc/self/statm")  # pages: all, resident, of these shared
_PAGE = os.sysconf("SC_PAGESIZE")


class Observer:
    """Writes their state to `figures`, twice a second; without an `exporter` nobody reads it, and it does nothing."""

    def __init__(
        self,
        figures: Figures,
        exporter: Exporter | None,
        datasets: Mapping[str, Dataset],
        pool: WorkerPool,
        access: Access,
        keeper: Keeper,
    ) -> None:
        self._figures, self._exporter = figures, exporter
        self._pool, self._access, self._keeper = pool, access, keeper
        self._looked_s = 0.0
        self._counted = dict.fromkeys((CRASHES, FAILED_STARTS, REFUSED_CONNECTIONS), 0)
        figures.clear_gauges()
        figures.add(STARTS, 1)
        figures.set(STARTED, _now_ms())
        for split, dataset in datasets.items():
            figures.set(RECORDS, dataset.records, split)

    def look(self, sessions: Sessions, queued: int) -> None:
        """Look, if it is time."""
        now_s = time.monotonic()
        if self._exporter is None or now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        self._exporter.staff()
        self._figures.set(TURNED, _now_ms())
        self._figures.set(QUEUED, queued)
        self._figures.set(CONNECTIONS, self._access.open_connections)
        self._count_on(REFUSED_CONNECTIONS, self._access.refused)
        self._look_at_workers()
        self._look_at_streams(sessions)
        self._look_at_memory(sessions)

    def _look_at_workers(self) -> None:
        workers = self._pool.workers
        states = ["busy" if each.fill is not None else "idle" if each.ready else "starting" for each in workers]
        for (state,) in WORKERS.series:
            self._figures.set(WORKERS, states.count(state), state)
        self._figures.set(WORKERS_WANTED, self._pool.count)
        self._count_on(CRASHES, self._pool.crashes)
        self._count_on(FAILED_STARTS, self._pool.failures)

    def _look_at_streams(self, sessions: Sessions) -> None:
        figures, opened = self._figures, list(sessions)
        slots = sum(session.slab.slots for session in opened)
        figures.set(CREDIT, sum(session.credit for session in opened))
        figures.set(SLOTS, slots)
        figures.set(SLOTS_IN_USE, slots - sum(session.free_slots for session in opened))
        figures.set(CLIENTS, len(sessions.clients))
        for (split,) in STREAMS.series:
            figures.set(STREAMS, sum(session.spec.split == split for session in opened), split)

    def _look_at_memory(self, sessions: Sessions) -> None:
        kept = self._keeper.kept
        for split, images in kept.items():
            self._figures.set(KEPT, images.held, split)
        taken = {
            "streams": sum(session.slab.total_bytes for session in sessions),
            "companions": sessions.companions.taken_bytes,
            "kept": sum(images.taken for images in kept.values()),
        }
        with contextlib.suppress(OSError):  # no descriptor is free: as it was
            pages = _STATM.read_text().split()
            taken["service"] = (int(pages[1]) - int(pages[2])) * _PAGE
        for part, size in taken.items():
            self._figures.set(MEMORY, size, part)

    def _count_on(self, figure: Figure, count: int) -> None:
        self._figures.add(figure, count - self._counted[figure])
        self._counted[figure] = count


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
