"""Memory that a process may take: the host's, within the limits of its cgroups of either version."""

from pathlib import Path

import pytest

from common.host_memory import available_memory, memory_size

MIB = 1 << 20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A host of 1000 MiB, 600 of them available."""
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text(
        f"MemTotal:  {1000 << 10} kB\nMemAvailable:  {600 << 10} kB\nHugePages_Free:  0\n"
    )
    return tmp_path


def written(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_limits_it_is_the_hosts(proc: Path) -> None:
    assert (memory_size(proc, proc), available_memory(proc, proc)) == (1000 * MIB, 600 * MIB)
    (proc / "self/cgroup").write_text("0::/user.slice\n")
    written(proc / "user.slice", memory__max="max", memory__current=MIB, memory__stat="inactive_file 0\nactive_file 0")
    assert (memory_size(proc, proc), available_memory(proc, proc)) == (1000 * MIB, 600 * MIB)


def test_the_groups_around_count_too_and_page_cache_can_be_given_up(proc: Path) -> None:
    (proc / "self/cgroup").write_text("0::/outer/inner\n")
    stat = f"anon {50 * MIB}\ninactive_file {20 * MIB}\nactive_file {10 * MIB}"
    written(proc / "outer", memory__max=300 * MIB, memory__current=280 * MIB, memory__stat=stat)
    written(proc / "outer/inner", memory__max=400 * MIB, memory__current=100 * MIB, memory__stat=stat)
    assert (memory_size(proc, proc), available_memory(proc, proc)) == (300 * MIB, 50 * MIB)


def test_a_group_of_version_1_that_shows_only_as_the_container_s_root(proc: Path) -> None:
    (proc / "self/cgroup").write_text("12:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n")
    stat = f"inactive_file 0\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}"
    root = proc / "memory"
    written(root, memory__limit_in_bytes=64 * MIB, memory__usage_in_bytes=60 * MIB, memory__stat=stat)
    assert (memory_size(proc, proc), available_memory(proc, proc)) == (64 * MIB, 6 * MIB)
