"""Ranges of values that callers give and the wire carries."""

import numbers
import operator
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import UsageError


class Whole(NamedTuple):
    low: int
    high: int

    def of(self, what: str, value: Any) -> int:
        """`value` as int, from numpy's too. Raises UsageError, naming `what`, for another type (or bool) or range."""
        try:
            whole = operator.index(value) if not isinstance(value, bool) else None
        except TypeError:
            whole = None
        if whole is None or not self.low <= whole <= self.high:
            raise UsageError(f"{what} is {value!r}; it is a whole number from {self.low} to {self.high}")
        return whole


class Real(NamedTuple):
    """Numbers from `low` to `high`, inclusive; NaN is out of range."""

    low: float
    high: float

    def of(self, what: str, value: Any) -> float:
        """`value` as float, or unchanged if int. Raises UsageError as `Whole.of` does."""
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            raise UsageError(f"{what} is {value!r}; it is a number from {self.low} to {self.high}")
        return value if type(value) is int else float(value)


SEEDS = Whole(0, 2**63 - 1)
CROPS = Whole(1, 256)  # height and width in pixels, up to those of a packed image
SIGMAS = Real(0, 10)
EPOCHS = Whole(0, 2**31 - 1)
RECORDS = Whole(0, 2**32 - 1)  # and positions
RANKS = Whole(1, 1 << 16)  # processes that share a stream
BATCH_SIZES = Whole(1, 1 << 14)  # the records, labels and digests of so many images fit a header

MOST_CLASSES = 1 << 16
CLASS_NAME_CHARACTERS = 256  # of a name
CLASS_NAMES_BYTES = (1 << 20) - (1 << 12)  # of all together, packed: a header has room for them

_PACKED_BYTES = 5  # that msgpack puts before a text, at most
_NOT_SHOWN = ("Cc", "Zl", "Zp")  # control characters, separators of lines and of paragraphs


def class_names_fault(names: Sequence[str]) -> str | None:
    if len(names) > MOST_CLASSES:
        return f"{len(names):,} classes are more than {MOST_CLASSES:,}"
    for name in names:
        if len(name) > CLASS_NAME_CHARACTERS:
            return f"the class name {name[:40]!r}... has {len(name):,} characters, more than {CLASS_NAME_CHARACTERS}"
        if not name or any(unicodedata.category(character) in _NOT_SHOWN for character in name):
            return f"the class name {name!r} is empty or has control characters"
    if len(set(names)) < len(names):
        return f"two classes are called {next(name for name in names if names.count(name) > 1)!r}"
    packed_bytes = sum(len(name.encode("utf-8", "replace")) + _PACKED_BYTES for name in names)
    if packed_bytes > CLASS_NAMES_BYTES:
        return f"the {len(names):,} class names take {packed_bytes:,} bytes, more than {CLASS_NAMES_BYTES:,}"
    return None
