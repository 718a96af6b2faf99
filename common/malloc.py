"""The C library's allocator: how much is in use, and when freed memory goes back to the system. Its own guess at that
suits none of the uses below.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_NEVER = -1  # of a threshold
_LARGEST_MMAP_THRESHOLD = 1 << 25  # that glibc accepts
_KEEP_BYTES, _LARGE_BYTES = 1 << 29, 1 << 20


@functools.cache
def keep_large_blocks() -> bool:
    """Let malloc keep freed blocks of tens of megabytes instead of handing them back to the system.

    ZeroMQ allocates each message it receives. With pages taken from and given back to the system for every batch, each
    page is cleared and mapped anew: a third of what receiving costs. False where the C library is not glibc.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and _set(_M_TRIM_THRESHOLD, _KEEP_BYTES)


@functools.cache
def keep_all_blocks() -> bool:
    """Let malloc keep every freed block, for a process that computes on the CPU.

    A step frees and asks for the same blocks of up to hundreds of megabytes again and again. Those above 32 MiB, the
    most that `keep_large_blocks` reaches, would come from the system each time, page by page: a fifth to a third of a
    step. False where the C library is not glibc.
    """
    return keep_large_blocks() and _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, _NEVER)


@functools.cache
def give_back_large_blocks() -> bool:
    """Let malloc hand freed blocks of a megabyte and more back at once, for a process that seldom needs them.

    Once such a block was freed, glibc would keep others of its size: in a worker those of an epoch's order, 20 MB on
    ImageNet. False where the C library is not glibc.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class _Use(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def bytes_in_use() -> int:
    """Bytes that the process has allocated and not freed; 0 if the C library is not glibc 2.33 or newer."""
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
