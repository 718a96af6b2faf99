"""Names of records: the path of the file that each was packed from, below its split's folder."""

MOST_BYTES = 512  # of a name as it is kept
_CUT = b"..."


def bounded(name: bytes) -> bytes:
    """`name`, or beginning and end of one that is longer than MOST_BYTES."""
    if len(name) <= MOST_BYTES:
        return name
    half = (MOST_BYTES - len(_CUT)) // 2
    return name[:half] + _CUT + name[-half:]


def readable(name: bytes) -> str:
    """A file name as text for JSON; bytes that are no UTF-8 become `\\xff`. A terminal needs `console.shown` too."""
    return name.decode("utf-8", "backslashreplace")


def told(record: int, name: str) -> str:
    """`7`, or `7 (ape/0007.jpg)` if the record has a name: behind the word `record` in a line for people."""
    return f"{record} ({name})" if name else str(record)
