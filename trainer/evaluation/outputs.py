"""Files that a command writes at its end: whole or not at all, and refused at its beginning where that must fail."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import AlexNetError, UsageError

_PARTIAL = ".partial"


def refuse_unwritable(path: Path, option: str) -> None:
    """UsageError where `path` cannot become a file: nobody waits an hour for that."""
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        partial = _partial(path)
        partial.open("wb").close()
        partial.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror} ({option})") from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what then becomes `path`; nothing is left of it after an error. AlexNetError for a full disk."""
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise AlexNetError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)
