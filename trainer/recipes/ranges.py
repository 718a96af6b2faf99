"""The range of each number of a recipe, said once, beside its field: `rate: Annotated[float, Range(ge=0)]`."""

import math
from dataclasses import dataclass, fields
from typing import Any

from common.errors import UsageError


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from a bound (ge, le), or beyond it (gt, lt). NaN and the infinities are in none."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    odd: bool = False

    def holds(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and (not self.odd or value % 2 == 1)
        )

    def __str__(self) -> str:
        bounds = (self.ge, "{} or more"), (self.gt, "more than {}"), (self.le, "at most {}"), (self.lt, "less than {}")
        said = [text.format(bound) for bound, text in bounds if bound is not None] + ["odd"] * self.odd
        return ", ".join(said) or "a finite number"


def check(what: str, value: float | str | None, range_: Range) -> None:
    """Raises UsageError for a number out of its range; a text or None, where a field may be that, is in any."""
    if isinstance(value, int | float) and not range_.holds(value):
        raise UsageError(f"{what} is {value}; it is {range_}")


def check_ranges(instance: Any, where: str = "") -> None:
    """Check every field of a dataclass that is annotated with a Range. Raises UsageError, `where` before the name."""
    for field in fields(instance):
        for range_ in getattr(field.type, "__metadata__", ()):
            check(f"{where}{field.name}", getattr(instance, field.name), range_)
