"""Probe the copy paths between two GPUs at startup: correctness, then bandwidth.

Some drivers report peer access and copy wrong bits silently, or slower than through the host.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import cast, get_args

import torch
from torch import Tensor

from common.errors import ExchangeError
from trainer.device.streams import Streams
from trainer.network.exchange import Link, Route, Way, Ways

SIZES_BYTES = (16 << 20, 1 << 20, 64 << 10, 4 << 10)  # the largest first: receive buffers and pinned memory only grow
TIMED_COPIES = 8
HEAD_START_CYCLES = 10_000_000  # 5 to 10 ms, in which the host queues the timed copies

log = logging.getLogger(__name__)


class Copier:
    def __init__(self, source: torch.device, target: torch.device, way: Way) -> None:
        self.way = way
        self._streams = streams = Streams()
        self._source, self._target = streams.stream(source, "source"), streams.stream(target, "target")
        self._begun = streams.event(target, "begun")
        route = Route.between(streams, source, target, "tried", way)
        self._link = Link(streams, route, self._source, self._target, "tried")

    def carry(self, bits: Tensor) -> Tensor:
        """Copy host `bits` to the source, to the target, and back."""
        streams, link = self._streams, self._link
        with streams.on(self._source):
            x = bits.to(self._source.device)
        link.send(x)
        with streams.on(self._target):
            arrived = link.receive().to("cpu", copy=True)
        link.release()
        link.settle()
        return arrived

    def gb_per_s(self, bits: Tensor, copies: int = TIMED_COPIES) -> float:
        streams, link = self._streams, self._link
        with streams.on(self._source):
            x = bits.to(self._source.device)
        streams.delay(self._target, HEAD_START_CYCLES)
        start = streams.mark(self._target)
        streams.record(self._begun, self._target)
        streams.wait(self._source, self._begun)
        for _ in range(copies):
            link.send(x)
            link.receive()
            link.release()
        end = streams.mark(self._target)
        link.settle()
        return copies * x.nbytes / streams.seconds_between(start, end) / 1e9


def ways_between(devices: tuple[torch.device, torch.device], requested: str) -> Ways:
    """The ways from half 0 and from half 1.

    requested   "direct", "host", or "auto": the fastest correct one; direct on one device, and on the CPU

    Raises ExchangeError if none delivers the right bits.
    """
    ways: tuple[Way, ...] = get_args(Way) if requested == "auto" else (cast(Way, requested),)
    first, second = devices
    if first.type == "cpu":
        return ways[0], ways[0]
    if first == second:
        way = choose_way(first, first, ways[:1])
        return way, way
    return choose_way(first, second, ways), choose_way(second, first, ways)


def choose_way(source: torch.device, target: torch.device, ways: Sequence[Way], copier: type[Copier] = Copier) -> Way:
    """The fastest of `ways` without a wrong bit, else ExchangeError."""
    rates = {way: probe(copier(source, target, way)) for way in ways}
    wrong = [way for way, rate in rates.items() if rate is None]
    rates_gb_s = {way: rate for way, rate in rates.items() if rate is not None}
    if not rates_gb_s:
        raise ExchangeError(
            f"copies from {source} to {target} arrive with wrong bits ({', '.join(wrong)}): "
            "try another --exchange, other --gpus, or one GPU with --gpus 0"
        )
    for way in wrong:
        log.warning("%s to %s: %s copies arrive with wrong bits, and are not used", source, target, way)
    chosen = max(rates_gb_s, key=rates_gb_s.__getitem__)
    verdict = f"using {chosen}" if len(ways) > 1 else "the only way"
    log.info("%s to %s: %s; %s", source, target, _listed(rates_gb_s, source, target), verdict)
    return chosen


def probe(copier: Copier) -> float | None:
    """GB/s, or None after a wrong bit; each bit is sent as 0 and as 1."""
    draws = torch.Generator().manual_seed(0)
    drawn = [torch.randint(-(2**63), 2**63 - 1, (size // 8,), generator=draws) for size in SIZES_BYTES]
    right = all(torch.equal(copier.carry(bits), bits) for ones in drawn for bits in (ones, ~ones))
    return copier.gb_per_s(drawn[0]) if right else None


def _listed(rates_gb_s: Mapping[Way, float], source: torch.device, target: torch.device) -> str:
    notes = {"direct": _access(source, target), "host": ""}
    return ", ".join(f"{way}{notes[way]} {rate:.3g} GB/s" for way, rate in rates_gb_s.items())


def _access(source: torch.device, target: torch.device) -> str:
    if source == target or source.type == "cpu":
        return ""
    return "" if torch.cuda.can_device_access_peer(source, target) else " (no peer access: the driver stages it)"
