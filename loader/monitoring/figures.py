"""Figures of the service, as integers in memory that the process beside it reads.

The memory is made before the first life of the service, so its counters survive restarts of the service.
"""

import mmap
import os
from typing import Literal, NamedTuple

PREFIX = "alexnet_loader_"
_WORD = 8  # bytes, written at once: a reader never sees half of a number
_SPLITS = ("train",), ("val",)


class Figure(NamedTuple):
    """A metric, and the label values of each of its series; `scale` makes its unit of the integer."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    scale: float = 1


def _each(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


IMAGES = Figure(
    "counter",
    "images_total",
    "Images in the answers to clients: decoded for them, kept decoded, or decoded for another client (shared).",
    ("split", "source"),
    tuple((*split, source) for split in _SPLITS for source in ("decoded", "kept", "shared")),
)
BATCHES = Figure("counter", "batches_total", "Batches in the answers to clients.", ("split",), _SPLITS)
PIXEL_BYTES = Figure(
    "counter",
    "pixel_bytes_total",
    "Bytes of pixels in the answers to clients: in shared memory (slab), or through a socket.",
    ("transport", "encrypted"),
    (("slab", "false"), *((by, encrypted) for by in ("tcp", "unix") for encrypted in ("false", "true"))),
)
WORKER_SECONDS = Figure(
    "counter",
    "worker_seconds_total",
    "Time of the workers over batches, by stage; copy: a batch decoded before.",
    ("stage",),
    _each("read", "decode", "augment", "copy"),
    1e-6,
)
TICKET_WAIT = Figure(
    "counter",
    "ticket_wait_seconds_total",
    "Time that answered tickets waited for an idle worker, or for a free slot of their client.",
    ("reason",),
    _each("worker", "slot"),
    1e-6,
)
REPLACED = Figure("counter", "replaced_images_total", "Images that took a corrupt record's place.", ("split",), _SPLITS)
FAULTS = Figure(
    "counter",
    "faults_total",
    "Refusals sent to clients, by reason; bad record: one that is corrupt, or kills workers.",
    ("code",),
    _each("unknown stream", "no such split", "refused", "bad record", "bad dataset", "version", "no access"),
)
IGNORED = Figure("counter", "ignored_messages_total", "Messages of clients that were malformed, or not admitted.")
REFUSED_CONNECTIONS = Figure("counter", "refused_connections_total", "Connections refused or cut.")
CRASHES = Figure("counter", "worker_crashes_total", "Workers that crashed, hung or were killed, and were replaced.")
FAILED_STARTS = Figure("counter", "worker_failed_starts_total", "Workers that ended before they could take work.")
STARTS = Figure("counter", "service_starts_total", "Starts of the service: the first, and one after each crash.")

STARTED = Figure("gauge", "start_time_seconds", "Start of the service, in Unix time.", scale=1e-3)
TURNED = Figure("gauge", "last_turn_time_seconds", "Latest turn of the service's loop, in Unix time.", scale=1e-3)
RECORDS = Figure("gauge", "dataset_records", "Records of the dataset.", ("split",), _SPLITS)
WORKERS = Figure("gauge", "workers", "Worker processes alive.", ("state",), _each("starting", "idle", "busy"))
WORKERS_WANTED = Figure("gauge", "workers_wanted", "Worker processes asked for.")
QUEUED = Figure("gauge", "queued_tickets", "Tickets that wait for a worker or a slot.")
CREDIT = Figure("gauge", "credit_batches", "Batches that all open streams may have in flight.")
SLOTS = Figure("gauge", "slots", "Slots of all open streams: room for a batch each.")
SLOTS_IN_USE = Figure("gauge", "slots_in_use", "Slots being filled, sent, or read by a client.")
CLIENTS = Figure("gauge", "clients", "Clients with an open stream.")
STREAMS = Figure("gauge", "streams", "Open streams.", ("split",), _SPLITS)
CONNECTIONS = Figure("gauge", "connections", "Open connections.")
KEPT = Figure("gauge", "kept_images", "Decoded images kept.", ("split",), _SPLITS)
MEMORY = Figure(
    "gauge",
    "memory_bytes",
    "Memory held: slots of streams, batches for companions, decoded images, and the service's own.",
    ("for",),
    _each("streams", "companions", "kept", "service"),
)

FIGURES = (
    IMAGES, BATCHES, PIXEL_BYTES, WORKER_SECONDS, TICKET_WAIT, REPLACED, FAULTS, IGNORED, REFUSED_CONNECTIONS,
    CRASHES, FAILED_STARTS, STARTS, STARTED, TURNED, RECORDS, WORKERS, WORKERS_WANTED, QUEUED, CREDIT, SLOTS,
    SLOTS_IN_USE, CLIENTS, STREAMS, CONNECTIONS, KEPT, MEMORY,
)  # fmt: skip
_PLACES = {key: at for at, key in enumerate((figure.name, *of) for figure in FIGURES for of in figure.series)}


class Figures:
    """The figures in the descriptor `fd`, which it owns, or in memory of this process; one process writes."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self._values = memoryview(mmap.mmap(fd, _WORD * len(_PLACES))).cast("q")

    @classmethod
    def create(cls) -> "Figures":
        fd = os.memfd_create("alexnet-figures", os.MFD_CLOEXEC)
        os.ftruncate(fd, _WORD * len(_PLACES))
        return cls(fd)

    def add(self, figure: Figure, amount: int, *of: str) -> None:
        """Count `amount` more in the series whose label values are `of`."""
        self._values[_PLACES[figure.name, *of]] += amount

    def set(self, figure: Figure, value: int, *of: str) -> None:
        self._values[_PLACES[figure.name, *of]] = value

    def get(self, figure: Figure, *of: str) -> int:
        return self._values[_PLACES[figure.name, *of]]

    def clear_gauges(self) -> None:
        for figure in FIGURES:
            for of in figure.series if figure.kind == "gauge" else ():
                self.set(figure, 0, *of)
