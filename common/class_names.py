"""The names of classes that a data set may have: those that the wire carries and a terminal shows."""

import unicodedata
from collections.abc import Sequence

MOST = 1 << 16
MOST_CHARACTERS = 256  # of a name
MOST_BYTES = (1 << 20) - (1 << 12)  # of all together, packed; a header has room for so many beside its other fields

_PACKED_BYTES = 5  # that msgpack puts before a text, at most
_NOT_SHOWN = ("Cc", "Zl", "Zp")  # control characters, separators of lines and of paragraphs


def fault(names: Sequence[str]) -> str | None:
    """Say what is wrong with the names of a data set's classes, naming the first; None if nothing is."""
    if len(names) > MOST:
        return f"{len(names):,} classes are more than {MOST:,}"
    for name in names:
        if len(name) > MOST_CHARACTERS:
            return f"the class name {name[:40]!r}... has {len(name):,} characters, more than {MOST_CHARACTERS}"
        if not name or any(unicodedata.category(character) in _NOT_SHOWN for character in name):
            return f"the class name {name!r} is empty or has control characters"
    if len(set(names)) < len(names):
        return f"two classes are called {next(name for name in names if names.count(name) > 1)!r}"
    packed_bytes = sum(len(name.encode("utf-8", "replace")) + _PACKED_BYTES for name in names)
    if packed_bytes > MOST_BYTES:
        return f"the {len(names):,} class names take {packed_bytes:,} bytes, more than {MOST_BYTES:,}"
    return None
