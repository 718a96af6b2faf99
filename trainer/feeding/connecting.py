"""The loader services that a command's options name."""

from collections.abc import Sequence
from pathlib import Path

from common.cli.command_line import DEFAULT_ENDPOINT
from common.client.client import LoaderClient
from common.errors import LoaderRefused, UsageError


def open_client(loaders: Sequence[str], loaders_file: Path | None, timeout_s: float, keys: Path | None) -> LoaderClient:
    """A client of `loaders`, of those in the file, or where neither is named of the default one.

    UsageError where an endpoint, the file or the keys are wrong.
    """
    endpoints = loaders or (() if loaders_file else (DEFAULT_ENDPOINT,))
    try:
        return LoaderClient(endpoints, loaders_file=loaders_file, timeout_s=timeout_s, keys=keys)
    except LoaderRefused as refusal:  # no service was asked yet: the endpoint itself is wrong
        raise UsageError(str(refusal)) from None
