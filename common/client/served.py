"""The one dataset that all streams of a client are of, by split, whichever service serves them and when."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..decoder import pixels_of
from ..spec import Split, StreamInfo
from .host import Host
from .owner import Owner
from .patience import Wait


class Served:
    """Empty until the first WELCOME; a service that comes back with something else is told apart by it."""

    def __init__(self) -> None:
        self._infos: dict[Split, StreamInfo] = {}
        self._hosts: set[tuple[Host, Split]] = set()

    def accepted(self, host: Host, split: Split) -> bool:
        """Return True if the host once served this split as the others do."""
        return (host, split) in self._hosts

    def difference(self, split: Split, told: StreamInfo) -> str | None:
        """A reason why `told`, the service's word on the split, is not of the same dataset or not decoded alike."""
        known = self._infos.get(split)
        if known is not None and not (_is_of_one_packing(told, known) and _contents(told) == _contents(known)):
            return f"it serves data set {told.digest.hex()}, not {known.digest.hex()}"
        for other, info in self._infos.items():
            if not _is_of_one_packing(told, info):
                return f"the classes or the mean image of its {split} set are not those of the {other} set read so far"
            if pixels_of(told.decoder) != pixels_of(info.decoder):
                return f"its decoder, {told.decoder}, makes other pixels than {info.decoder}"
        return None

    def take(self, host: Host, split: Split, told: StreamInfo) -> StreamInfo:
        """Note that the host serves it; gives the first word on the split."""
        self._hosts.add((host, split))
        return self._infos.setdefault(split, told)


def _contents(info: StreamInfo) -> tuple[bytes, int]:
    return info.digest, info.records


def _is_of_one_packing(one: StreamInfo, other: StreamInfo) -> bool:
    """Training and validation set have classes and mean image in common."""
    return one.classes == other.classes and np.array_equal(one.mean_hwc, other.mean_hwc)


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """The services as a client's streams have them, and whose they are.

    hosts       they come and go
    served      what all streams are of
    timeout_s   as LoaderClient takes it
    wait, hear  hear them once, blocking for a while or not at all
    """

    owner: Owner
    hosts: list[Host]
    served: Served
    timeout_s: float
    wait: Callable[[Wait], None]
    hear: Callable[[], None]
