"""An anonymous file in memory, of huge pages if the kernel grants them."""

# Written image by image, pages of 4 KiB cost several times as much as huge pages. Few hosts give those to memfds, but a
# tmpfs of one's own has them; it is mounted nowhere. That needs CAP_SYS_ADMIN and Linux 5.2.

import contextlib
import ctypes
import os

_CLOEXEC, _SET_STRING, _CREATE = 1, 1, 6  # of fsopen and fsmount; of fsconfig
_NO_SUID_DEV_EXEC = 2 | 4 | 8


def anonymous_file(name: str, size: int) -> int:
    """The descriptor of a file of zeros; `name` shows in /proc. Raises OSError."""
    with contextlib.ExitStack() as undo:
        try:
            fd = _in_own_tmpfs(name)
        except (OSError, AttributeError):  # not allowed; or glibc is older than 2.36
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        undo.callback(os.close, fd)
        os.ftruncate(fd, size)
        undo.pop_all()
    return fd


def _in_own_tmpfs(name: str) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as stack:

        def called(function: str, *arguments: bytes | int | None) -> int:
            result: int = getattr(library, function)(*arguments)
            if result < 0:
                raise OSError(ctypes.get_errno(), function)
            return result

        tmpfs = called("fsopen", b"tmpfs", _CLOEXEC)
        stack.callback(os.close, tmpfs)
        for key, value in ((b"huge", b"within_size"), (b"size", b"0")):  # no limit but the file's
            called("fsconfig", tmpfs, _SET_STRING, key, value, 0)
        called("fsconfig", tmpfs, _CREATE, None, None, 0)
        root = called("fsmount", tmpfs, _CLOEXEC, _NO_SUID_DEV_EXEC)
        stack.callback(os.close, root)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
        os.unlink(name, dir_fd=root)
    return fd
