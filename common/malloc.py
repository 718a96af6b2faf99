"""glibc malloc: when freed memory returns to the system, and the bytes in use. False, or 0, without glibc."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # malloc.h
_NEVER = -1  # of a threshold
_LARGEST_MMAP_THRESHOLD = 1 << 25  # accepted by glibc
_KEEP_BYTES, _KEEP_IN_ONE_ARENA_BYTES, _LARGE_BYTES = 1 << 29, 1 << 27, 1 << 20


@functools.cache
def keep_large_blocks() -> bool:
    """Keep freed blocks of up to 32 MiB: mapping a message's anew is a third of the cost of receiving it."""
    return _set(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and _set(_M_TRIM_THRESHOLD, _KEEP_BYTES)


@functools.cache
def keep_in_one_arena() -> bool:
    """Keep 128 MiB of freed blocks of up to 32 MiB, for all threads together. False without glibc.

    An arena of a thread's own is unmapped 64 MiB at a time. Call this before there are threads.
    """
    keeps = _set(_M_ARENA_MAX, 1) and _set(_M_TRIM_THRESHOLD, _KEEP_IN_ONE_ARENA_BYTES)
    return keeps and _set(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)


@functools.cache
def keep_all_blocks() -> bool:
    """Keep every freed block: mapping them anew is a fifth to a third of a training step on the CPU."""
    return keep_large_blocks() and _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, _NEVER)


@functools.cache
def give_back_large_blocks() -> bool:
    """Return freed blocks of a megabyte and more at once: an epoch's order is 20 MB on ImageNet."""
    return _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class _Use(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def bytes_in_use() -> int:
    """Bytes allocated and not freed; 0 also before glibc 2.33."""
    read = _mallinfo2()
    if read is None:
        return 0
    use = read()
    return int(use.uordblks + use.hblkhd)


@functools.cache
def _mallinfo2() -> "Callable[[], Any] | None":
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _Use
    return function


def _set(parameter: int, value: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))
