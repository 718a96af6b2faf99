"""Resource limits of this host or container: memory, cores, open files."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.errors import UsageError

MOST_STREAMS = 256  # of all clients: each has a slab and a descriptor
_MOST_FILES = 1 << 16
_FILES_BESIDE = 64  # ZeroMQ's, datasets, logs, and what is open for a moment
_FEWEST_FILES = 96  # for streams and connections
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_RESERVE = 8  # one part of so many of the memory


def memory_size(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Memory of this machine or container, in bytes."""
    return min([_fields(proc / "meminfo")["MemTotal"] << 10, *(group.limit for group in _groups(proc, cgroups))])


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes that this process could take, at the cost of the page cache alone."""
    on_host = _fields(proc / "meminfo")["MemAvailable"] << 10
    return min([on_host, *(group.available for group in _groups(proc, cgroups))])


def spare_memory() -> int:
    """Bytes available beyond an eighth of the memory; may be negative."""
    return available_memory() - memory_size() // _RESERVE


class _Group(NamedTuple):
    """A memory cgroup, in bytes."""

    limit: int
    available: int


def _groups(proc: Path, cgroups: Path) -> Iterator[_Group]:
    """The cgroups around this process, of version 2 or 1."""
    own = proc / "self/cgroup"
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = cgroups / controllers
            inner = root / path.lstrip("/")
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(root) and (group := _group(folder)) is not None:
                    yield group


def _group(folder: Path) -> _Group | None:
    """None if it is out of sight or has no limit."""
    for limit_name, used_name, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
            fields = _fields(folder / "memory.stat")
        except OSError:
            continue
        if limit.isdecimal():
            cache = fields[f"{prefix}inactive_file"] + fields[f"{prefix}active_file"]
            return _Group(int(limit), int(limit) - used + cache)
    return None


def _fields(path: Path) -> dict[str, int]:
    """Numbers of lines such as `MemFree:  123 kB` or `cache 123`."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


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
