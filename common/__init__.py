"""The client, and all it shares with the loader.

Names are resolved on first use: a worker, or the process that restarts a service, loads neither zmq nor numpy on their
account.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.batch import Batch
    from .client.client import LoaderClient
    from .client.stream import Stream
    from .client.waits import WaitClock, Waits
    from .errors import (
        AlexNetError,
        LoaderError,
        LoaderFault,
        LoaderRefused,
        LoaderTimeout,
        NoSuchSplit,
        UsageError,
    )
    from .spec import StreamInfo, StreamSpec

__all__ = [
    "AlexNetError",
    "Batch",
    "LoaderClient",
    "LoaderError",
    "LoaderFault",
    "LoaderRefused",
    "LoaderTimeout",
    "NoSuchSplit",
    "Stream",
    "StreamInfo",
    "StreamSpec",
    "UsageError",
    "WaitClock",
    "Waits",
]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import errors, spec
        from .client import batch, client, stream, waits

        homes = (batch, client, stream, waits, errors, spec)
        return next(getattr(home, name) for home in homes if hasattr(home, name))
