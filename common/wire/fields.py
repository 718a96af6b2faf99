"""Message fields, each with a check of type and range."""

from dataclasses import field
from typing import Any, NamedTuple

from ..ranges import BATCH_SIZES, RECORDS

MAX_COUNT = BATCH_SIZES.high  # images of a batch
MAX_RECORD = RECORDS.high
MAX_REASON = 80  # characters, of a corrupt record
MAX_SLOTS = 4096
MAX_CORES = 1 << 16
MAX_NAMES = 256  # of a request for names of records
MOST_US = 1 << 50  # of any duration: 35 years


class StageTimes(NamedTuple):
    """Time a service spent on a batch, in microseconds.

    for_worker   queued while all workers were busy or replaced, or one was at the same batch for another client
    for_slot     queued while the client's slots were all filled or lent
    read         order, records from LMDB, checksums
    decode       JPEG to pixels, corrupt records included
    augment      draws, crop, flip, colour noise, digests; or a copy of another client's batch
    """

    for_worker: int = 0
    for_slot: int = 0
    read: int = 0
    decode: int = 0
    augment: int = 0


def integer(low: int, high: int) -> Any:
    return field(metadata={"check": lambda v: type(v) is int and low <= v <= high})


def flag() -> Any:
    return field(metadata={"check": lambda v: type(v) is bool})


def number(low: float, high: float) -> Any:
    return field(metadata={"check": lambda v: type(v) in (int, float) and low <= v <= high})


def text(longest: int) -> Any:
    return field(metadata={"check": lambda v: type(v) is str and len(v) <= longest})


def binary(shortest: int, longest: int) -> Any:
    return field(metadata={"check": lambda v: type(v) is bytes and shortest <= len(v) <= longest})


def words(most: int) -> Any:
    return field(metadata={"check": lambda v: type(v) is bytes and len(v) <= 4 * most and len(v) % 4 == 0})


def names(most: int, longest: int) -> Any:
    def check(value: Any) -> bool:
        return type(value) is list and len(value) <= most and all(type(v) is str and len(v) <= longest for v in value)

    return field(metadata={"check": check})


def binaries(most: int, longest: int) -> Any:
    def check(value: Any) -> bool:
        return type(value) is list and len(value) <= most and all(type(v) is bytes and len(v) <= longest for v in value)

    return field(metadata={"check": check})


def replaced(most: int) -> Any:
    def check(value: Any) -> bool:
        return type(value) is list and len(value) <= most and all(_is_replaced(of) for of in value)

    return field(metadata={"check": check})


def _is_replaced(value: Any) -> bool:
    if type(value) is not list or len(value) != 3:
        return False
    position, record, reason = value
    in_range = all(type(v) is int and 0 <= v <= MAX_RECORD for v in (position, record))
    return in_range and type(reason) is str and len(reason) <= MAX_REASON


def durations() -> Any:
    def check(value: Any) -> bool:
        return type(value) is list and len(value) == len(StageTimes._fields) and all(_is_duration(us) for us in value)

    return field(metadata={"check": check})


def _is_duration(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_US
