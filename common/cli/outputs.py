"""Output files named by the user: refused at the start if writing must fail, otherwise written whole.

-                                 stdout
a file, or nothing                replaced atomically; a symbolic link stays, its target is replaced
a FIFO or a character device      written to
a folder, block device or socket   refused
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..errors import AlexNetError, UsageError
from . import console

STDOUT = Path("-")
_PARTIAL = ".partial"
_REFUSED = {stat.S_IFDIR: "it is a folder", stat.S_IFBLK: "it is a block device", stat.S_IFSOCK: "it is a socket"}


def refuse_unwritable(path: Path, option: str, *, as_file: bool = False) -> None:
    """Raise UsageError if `path` cannot be written; `as_file` requires a regular file."""
    if path == STDOUT and not as_file:
        return
    try:
        mode = _mode(path)
        if reason := _REFUSED.get(stat.S_IFMT(mode)):
            raise OSError(0, reason)
        if mode and not os.access(path, os.W_OK, effective_ids=True):
            raise PermissionError(0, "Permission denied")
        if _is_stream(mode):
            if as_file:
                raise OSError(0, "it is not a regular file")
            return
        partial = _partial(path)
        partial.open("wb").close()
        partial.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror} ({option})") from None


@contextlib.contextmanager
def written(path: Path, encoding: str = "utf-8", errors: str | None = None) -> Iterator[TextIO]:
    """Open `path` for text, whatever it is. Raises AlexNetError if it cannot be written.

    errors   as `open` takes it, and stdout in `encoding` too then; None: strict, stdout as it is
    """
    descriptor = _own_descriptor(path)
    if path == STDOUT or descriptor == 1:
        with console.results() as stream, _encoded(stream, encoding, errors) as text:
            yield text
    elif descriptor is not None or _is_stream(_mode(path)):
        target = path if descriptor is None else os.dup(descriptor)
        with _errors_of(path), open(target, "w", encoding=encoding, errors=errors) as file:
            yield file
    else:
        with whole_file(path) as partial, partial.open("w", encoding=encoding, errors=errors) as file:
            yield file


@contextlib.contextmanager
def _encoded(stream: TextIO, encoding: str, errors: str | None) -> Iterator[TextIO]:
    if errors is None:
        yield stream
        return
    stream.flush()
    text = io.TextIOWrapper(stream.buffer, encoding, errors)
    try:
        yield text
    finally:
        text.detach()  # flushes it, and leaves stdout open


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end. Raises AlexNetError."""
    partial = _partial(path)
    try:
        with _errors_of(path):
            yield partial
            if mode := _mode(path):
                partial.chmod(stat.S_IMODE(mode))
            partial.replace(os.path.realpath(path))
    finally:
        partial.unlink(missing_ok=True)


def remove_written(path: Path) -> None:
    """Remove a regular file; a link to it, and this process's own output, stay."""
    with contextlib.suppress(OSError):
        if path != STDOUT and _own_descriptor(path) is None and stat.S_ISREG(_mode(path)):
            os.unlink(os.path.realpath(path))


def is_fifo(path: Path) -> bool:
    return stat.S_ISFIFO(_mode(path))


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AlexNetError(f"{path} cannot be written: {error.strerror}") from None


def _mode(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mode
    return 0


def _is_stream(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _own_descriptor(path: Path) -> int | None:
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _partial(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    return target.with_name(target.name + _PARTIAL)
