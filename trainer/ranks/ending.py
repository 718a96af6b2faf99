"""The end of ranks, and the first that ended by itself."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

USAGE = 2
_STOPPED = 128  # and the signal's number: a rank that saved because a signal asked
_PROMPT_S = 25.0  # one that ends later than that after the first was ended by the agent, whose patience is 30 s


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of the rank that took the others with it.

    exit_code        negative: the number of a signal
    words            its error; empty if it could not tell
    is_consequence   it had no reason of its own
    lost_another     it says that another is gone
    """

    rank: int
    exit_code: int
    words: str
    is_consequence: bool
    lost_another: bool

    @property
    def is_worth_a_restart(self) -> bool:
        """True for a kill, a crash and a lost connection: a reported error would recur."""
        return self.exit_code < 0 or (self.exit_code == 1 and (self.lost_another or not self.words))

    def __str__(self) -> str:
        if self.words:
            return self.words
        if self.exit_code < 0:
            return f"rank {self.rank} was ended by {signal.Signals(-self.exit_code).name}"
        return f"rank {self.rank} ended with exit code {self.exit_code}"


def first_ending(failures: Mapping[int, ProcessFailure]) -> Ending:
    """The first of `failures` (by rank) that is no consequence of another."""
    told = {rank: _told(failure) for rank, failure in failures.items()}
    times_s = {rank: told[rank].get("at_s", float(failure.timestamp)) for rank, failure in failures.items()}
    late_s = min(times_s.values()) + _PROMPT_S

    def order(rank: int) -> tuple[int, float]:
        code = failures[rank].exitcode
        was_stopped = code == -signal.SIGTERM or (code > _STOPPED and not told[rank]) or times_s[rank] > late_s
        return 2 if was_stopped else int(told[rank].get("is_consequence", False)), times_s[rank]

    first = min(failures, key=order)
    words, lost_another = told[first].get("message", ""), told[first].get("lost_another", False)
    return Ending(first, failures[first].exitcode, words, order(first)[0] > 0, lost_another)


def _told(failure: ProcessFailure) -> dict[str, Any]:
    """The words the rank wrote, if any."""
    message = failure.error_file_data.get("message")
    return message if isinstance(message, dict) else {}
