"""What the machine lets the service have: memory, cores, and open files."""

import os
import resource
from pathlib import Path

_MOST_FILES = 1 << 16
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def half_of_memory() -> int:
    """Half the bytes that this machine, or the container, has."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _CGROUP.exists() and (text := _CGROUP.read_text().strip()).isdecimal():
        has = min(has, int(text))
    return has // 2


def usable_cores() -> int:
    """Of the machine, those that this process may use."""
    return len(os.sched_getaffinity(0))


def raise_file_limit() -> int:
    """Allow this process as many open files as it may have, for connections and slabs; gives how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_in_words(hard), _MOST_FILES)
    if _in_words(soft) < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(_in_words(soft), wanted)


def _in_words(limit: int) -> int:
    """RLIM_INFINITY is -1."""
    return limit if limit >= 0 else 1 << 62
