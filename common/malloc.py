"""One setting of the C library's allocator, for processes that receive pixels over a socket."""

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 1 << 25  # that glibc accepts
_KEEP_BYTES = 1 << 29


@functools.cache
def keep_large_blocks() -> bool:
    """Let malloc keep freed blocks of tens of megabytes instead of handing them back to the system.

    ZeroMQ allocates each message it receives. With pages taken from and given back to the system for every batch, each
    page is cleared and mapped anew: a third of what receiving costs. False where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))
