"""Memory of this machine, within the limits of the cgroups around this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # bytes: version 1 has no other word for it


def memory_size(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Memory of this machine or container, in bytes."""
    return min([_fields(proc / "meminfo")["MemTotal"] << 10, *(group.limit for group in _groups(proc, cgroups))])


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes that this process could take, at the cost of the page cache alone."""
    on_host = _fields(proc / "meminfo")["MemAvailable"] << 10
    return min([on_host, *(group.available for group in _groups(proc, cgroups))])


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
            limit = (folder / limit_name).read_text().strip()
            if not limit.isdecimal() or int(limit) >= _UNLIMITED:
                continue
            used, fields = int((folder / used_name).read_text()), _fields(folder / "memory.stat")
        except OSError:
            continue
        cache = fields.get(f"{prefix}inactive_file", 0) + fields.get(f"{prefix}active_file", 0)
        return _Group(int(limit), int(limit) - used + cache)
    return None


def _fields(path: Path) -> dict[str, int]:
    """Numbers of lines such as `MemFree:  123 kB` or `cache 123`."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
