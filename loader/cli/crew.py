"""How many workers there are to be: a number, or a file that holds one."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError

MOST = 1024


@dataclass(frozen=True, slots=True)
class Crew:
    """`number` workers, or as many as `file` says when it is asked."""

    number: int
    file: Path | None = None

    def wanted(self) -> int:
        """1 to MOST. Raises UsageError where the file does not say."""
        if self.file is None:
            return self.number
        try:
            text = self.file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.file} cannot be read: {error} (--workers-file)") from None
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST):
            raise UsageError(f"{self.file} says {text[:20]!r}; it is a number, 1 to {MOST} (--workers-file)")
        return int(text)
