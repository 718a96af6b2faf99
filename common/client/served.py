"""The services as a client's streams have them, and the one dataset they must serve."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..decoder import pixels_of
from ..spec import Split, StreamInfo
from .host import Host
from .owner import Owner
from .patience import Wait


class Served:
    """The dataset of all streams of a client, by split."""

    def __init__(self) -> None:
        self._infos: dict[Split, StreamInfo] = {}
        self._hosts: set[tuple[Host, Split]] = set()

    def accepted(self, host: Host, split: Split) -> bool:
        """Return True if the host once served this split as the others do."""
        return (host, split) in self._hosts

    def difference(self, split: Split, info: StreamInfo) -> str | None:
        """Describe why `info` is of another dataset or decoder; None if it is not."""
        known = self._infos.get(split)
        if known is not None and not (_is_of_one_packing(info, known) and _contents(info) == _contents(known)):
            return f"it serves dataset {info.digest.hex()}, not {known.digest.hex()}"
        for other, of_other in self._infos.items():
            if not _is_of_one_packing(info, of_other):
                return f"the classes or the mean image of its {split} set are not those of the {other} set read so far"
            if pixels_of(info.decoder) != pixels_of(of_other.decoder):
                return f"its decoder, {info.decoder}, makes other pixels than {of_other.decoder}"
        return None

    def take(self, host: Host, split: Split, info: StreamInfo) -> StreamInfo:
        """Note that the host serves it; returns the first info on the split."""
        self._hosts.add((host, split))
        return self._infos.setdefault(split, info)


def _contents(info: StreamInfo) -> tuple[bytes, int]:
    return info.digest, info.records


def _is_of_one_packing(one: StreamInfo, other: StreamInfo) -> bool:
    return one.classes == other.classes and np.array_equal(one.mean_hwc, other.mean_hwc)


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """Things a client shares with its streams.

    timeout_s   as LoaderClient takes it
    wait, hear  take in messages, blocking for a moment or not at all
    """

    owner: Owner
    hosts: list[Host]
    served: Served
    timeout_s: float
    wait: Callable[[Wait], None]
    hear: Callable[[], None]
