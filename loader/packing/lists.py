"""Text files that come with pictures: of which class they are, and what the classes are called."""

from pathlib import Path

from common.cli.log import error_text
from common.errors import UsageError
from common.untrusted import read_regular

_MAX_BYTES = 1 << 26  # ILSVRC's list of validation pictures, with all boxes, has some megabytes
_MAX_WORDS = 200  # characters


def read_lines(path: Path) -> list[str]:
    """Lines that are not empty. UsageError if it cannot be read."""
    try:
        data = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{error_text(error)}: it says what the pictures are of") from None
    return [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]


def read_words(path: Path, separator: str) -> dict[str, str]:
    """Descriptions of classes, by name: `n01440764<separator>tench, Tinca tinca` a line."""
    rows = (line.partition(separator) for line in read_lines(path))
    return {name: words.strip()[:_MAX_WORDS] for name, _, words in rows}
