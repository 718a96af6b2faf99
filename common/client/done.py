"""The acknowledgement in a TICKET, so that slots go back."""

import numpy as np

from ..errors import LoaderError
from ..wire import fields


def done_with(needed: set[int], asked_last: int) -> tuple[int, bytes]:
    """The acknowledgement of all tickets but the `needed` ones: everything below a number, and some above it,
    up to the one that was asked for last. A displaced answer's number may lie above all that are needed.

    That is said anew with every ticket, and once true it stays true, so a TICKET may be lost or come late or twice.
    Raises LoaderError if that would be more than a TICKET can say.
    """
    oldest = min(needed)
    done = [number - oldest for number in range(oldest, asked_last + 1) if number not in needed]
    if len(done) > fields.MAX_SLOTS:
        raise LoaderError(f"a batch was kept while {len(done)} others came; batch.copy() has its images for so long")
    return oldest, np.array(done, "<u4").tobytes()
