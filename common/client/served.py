"""The one dataset that all of a client's services must serve."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..decoder import pixels_of
from ..spec import Split, StreamInfo
from .host import Host
from .owner import Owner
from .patience import Wait


class Served:
    def __init__(self) -> None:
        self._infos: dict[Split, StreamInfo] = {}
        self._hosts: set[tuple[Host, Split]] = set()

    def accepted(self, host: Host, split: Split) -> bool:
        return (host, split) in self._hosts

    def difference(self, split: Split, info: StreamInfo) -> str | None:
        """Describe why `info` is of another dataset or decoder, or return None."""
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
        self._hosts.add((host, split))
        return self._infos.setdefault(split, info)


def _contents(info: StreamInfo) -> tuple[bytes, int]:
    return info.digest, info.records


def _is_of_one_packing(one: StreamInfo, other: StreamInfo) -> bool:
    return one.classes == other.classes and np.array_equal(one.mean_hwc, other.mean_hwc)


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """A client's parts that its streams use; `wait` and `hear` are LoaderClient's."""

    owner: Owner
    hosts: list[Host]
    served: Served
    timeout_s: float
    wait: Callable[[Wait], None]
    hear: Callable[[], None]
