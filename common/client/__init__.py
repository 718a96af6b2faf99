"""The reader's side: requests batches, retries, reorders. The loader never imports it."""

from ..errors import (
    AlexNetError,
    LoaderError,
    LoaderFault,
    LoaderRefused,
    LoaderTimeout,
    NoSuchSplit,
    UsageError,
)
from ..spec import StreamInfo, StreamSpec
from .batch import Batch
from .client import LoaderClient
from .stream import Stream
from .waits import WaitClock, Waits

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
