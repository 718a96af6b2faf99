"""Sums of gradients over parts and ranks, during the backward pass.

    compute stream   gradients of a bucket; `ready`
    comm stream      waits for `ready`; to each rank its stretch of every rank's gradients; their sum in a fixed tree;
                     all stretches to all ranks; `summed`
    update           waits for `summed`

No library adds: its order, and so the bits, may depend on ranks, sizes and topology. `fast` lets it. On a CPU a thread
waits, adds and gathers.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
import torch.distributed as dist

from trainer.device.streams import DeviceStream, Streams
from trainer.network.net import Net
from trainer.network.parameters import Gradients
from trainer.ranks.buckets import Bucket
from trainer.ranks.collectives import Collectives
from trainer.ranks.share import Division
from trainer.ranks.world import World


class Averaging:
    """Give `begin` to every part's `Net.train_step` as `keep`; after the last, `finish`."""

    def __init__(self, net: Net, world: World, division: Division, streams: Streams | None = None) -> None:
        self._world, self._division, self._streams = world, division, streams or Streams()
        self._buckets = [Bucket(parameters, division) for parameters in net.buckets]
        self._bucket_of = {
            parameter: bucket
            for parameters, bucket in zip(net.buckets, self._buckets, strict=True)
            for parameter in parameters
        }
        devices = dict.fromkeys(bucket.device for bucket in self._buckets)
        self._lanes = {device: self._new_lane(device) for device in devices if division.ranks > 1}

    def begin(self, gradients: Gradients, stream: DeviceStream) -> None:
        """Take gradients of a part; with the last part of a bucket, queue its exchange.

        Raises RankLost.
        """
        bucket = self._bucket_of[next(iter(gradients))]
        if not bucket.take(gradients):
            return
        if self._division.parts_of_a_rank > 1:
            with self._streams.on(stream):
                if not bucket.add():
                    return
        if self._division.ranks > 1:
            with self._world.collective():
                self._lanes[bucket.device].start(bucket, stream)
        else:
            with self._streams.on(stream):
                for wire in bucket.wires:
                    wire.end_sum()

    def finish(self) -> None:
        """Make the sums the parameters' gradients, valid until the next `begin`. Raises RankLost."""
        with self._world.collective():
            for lane in self._lanes.values():
                lane.finish()
        for bucket in self._buckets:
            bucket.assign()

    def _new_lane(self, device: torch.device) -> "_Lane":
        collectives = Collectives(self._world, device)
        if self._streams.queues(device):
            return _Queue(self._streams, device, collectives)
        return _Thread(collectives)


class _Lane(Protocol):
    """All exchanges of one device, in the order of their start."""

    def start(self, bucket: Bucket, stream: DeviceStream) -> None:
        """Exchange a bucket, whose gradients `stream` computes."""

    def finish(self) -> None:
        """Wait for all."""


class _Queue:
    def __init__(self, streams: Streams, device: torch.device, collectives: Collectives) -> None:
        self._streams, self._collectives = streams, collectives
        self._comm = streams.stream(device, "comm")
        self._ready, self._summed = (streams.event(device, f"gradients {kind}") for kind in ("ready", "summed"))
        self._sources: dict[DeviceStream, None] = {}

    def start(self, bucket: Bucket, stream: DeviceStream) -> None:
        streams = self._streams
        streams.record(self._ready, stream)
        streams.wait(self._comm, self._ready)
        with streams.on(self._comm), streams.span(self._comm, "gradients"):
            works = bucket.send(self._collectives)
            bucket.receive(works, self._collectives)
        streams.record(self._summed, self._comm)
        self._sources[stream] = None

    def finish(self) -> None:
        """Make the current stream wait, and those that may get the gradients' memory back."""
        for source in self._sources:
            for stream in (source, self._streams.current(source.device)):
                self._streams.wait(stream, self._summed)
        self._sources = {}


class _Thread:
    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self._executor = ThreadPoolExecutor(1, "gradients")
        self._pending: list[Future[None]] = []

    def start(self, bucket: Bucket, stream: DeviceStream) -> None:
        works: list[dist.Work] = bucket.send(self._collectives)
        self._pending.append(self._executor.submit(bucket.receive, works, self._collectives))

    def finish(self) -> None:
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()
