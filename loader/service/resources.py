"""Resource limits of this host or container: memory, cores, open files."""

import functools
import os
import resource
from typing import NamedTuple

from common.errors import UsageError
from common.host_memory import available_memory, memory_size

MOST_STREAMS = 256  # of all clients: each has a slab and a descriptor
_MOST_FILES = 1 << 16
_FILES_BESIDE = 64  # ZeroMQ's, datasets, logs, and what is open for a moment
_FEWEST_FILES = 96  # for streams and connections
_RESERVE, _MARGIN = 8, 32  # one part of so many of the memory


def spare_memory() -> int:
    """Bytes available beyond an eighth of the memory; may be negative."""
    return available_memory() - _reserve()


def spare_margin() -> int:
    """Bytes of spare memory that decoded images are not to take: another program that takes them costs none."""
    return memory_size() // _MARGIN


@functools.cache
def _reserve() -> int:
    return memory_size() // _RESERVE


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def raise_file_limit() -> int:
    """Raise the limit of open files as far as allowed; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_as_number(hard), _MOST_FILES)
    if _as_number(soft) < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(_as_number(soft), wanted)


class Files(NamedTuple):
    """One each; and one for the shelf of two streams or more."""

    streams: int
    connections: int


def share_files(limit: int, workers: int) -> Files:
    """Divide the open files that workers, datasets and logs leave. Raises UsageError if they are too few."""
    beside = _FILES_BESIDE + 2 * workers
    if limit < beside + _FEWEST_FILES:
        raise UsageError(
            f"this process may have {limit} open files and needs {beside + _FEWEST_FILES} with {workers} workers"
            " (ulimit -n, or fewer --workers)"
        )
    streams = min(MOST_STREAMS, (limit - beside) // 3)
    return Files(streams, limit - beside - streams - streams // 2)


def _as_number(limit: int) -> int:
    return limit if limit >= 0 else 1 << 62
