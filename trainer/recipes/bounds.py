"""Ranges of a recipe's numbers, declared at their fields: `rate: Annotated[float, Range(ge=0)]`."""

from dataclasses import dataclass, fields
from typing import Any

from common.errors import UsageError

MOST = 1e30  # of any number: float32, which all is computed in, ends at 3.4e38


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive (ge, le) and exclusive (gt, lt) bounds; NaN and numbers beyond +-MOST are out of any."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    odd: bool = False

    def holds(self, value: float) -> bool:
        return (
            abs(value) <= MOST
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and (not self.odd or value % 2 == 1)
        )

    def __str__(self) -> str:
        bounds = (self.ge, "{} or more"), (self.gt, "more than {}"), (self.le, "at most {}"), (self.lt, "less than {}")
        said = [text.format(bound) for bound, text in bounds if bound is not None]
        if not said:
            return f"from {-MOST:g} to {MOST:g}"
        if self.le is None and self.lt is None:
            said.append(f"at most {MOST:g}")
        return ", ".join(said + ["odd"] * self.odd)


MOST_SHOWN = 60  # characters of a name or a value that is wrong


def shown(value: Any) -> str:
    """A value's repr on one line, at most MOST_SHOWN characters."""
    try:
        text = repr(value)
    except RecursionError:
        return "brackets in brackets, without end"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def shown_name(name: str) -> str:
    return name if name.isidentifier() and name.isascii() and len(name) <= MOST_SHOWN else shown(name)


def check(what: str, value: float | str | None, range_: Range) -> None:
    """Raise UsageError for a number out of its range."""
    if isinstance(value, int | float) and not range_.holds(value):
        raise UsageError(f"{what} is {shown(value)}; it is {range_}")


def check_ranges(instance: Any, where: str = "") -> None:
    for field in fields(instance):
        for range_ in getattr(field.type, "__metadata__", ()):
            check(f"{where}{field.name}", getattr(instance, field.name), range_)
