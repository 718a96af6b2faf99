"""The one system that this runs on."""

import sys

from ..errors import UsageError


def need_linux() -> None:
    """Raise UsageError on any other: memory is shared by memfd, and /proc, prctl and signalling are Linux's own."""
    if sys.platform != "linux":
        raise UsageError(f"AlexNet runs on Linux only, and this is {sys.platform}")
