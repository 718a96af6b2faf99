"""Program that takes a few steps as 2 ranks and as 4, and writes what they found.

    python -m tests.support.rank_steps FOLDER

The ranks are forked from one process, which imports torch once.
"""

import json
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tests.support.race_detector import RaceDetector
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.ranks import buckets
from trainer.ranks.global_step import GlobalStep
from trainer.ranks.share import Division, Reduce
from trainer.ranks.world import World
from trainer.recipes.named import SOURCE
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
SIDE = 67  # of the images: conv5 makes maps of one pixel
RECIPE = replace(
    SOURCE.with_each_layer(weight_std="he"), width=1 / 16, classes=5, dropout=0.5, input_size=SIDE, crop=SIDE
)
RATES = {name: rate / 10 for name, rate in Schedule(RECIPE).rates(0).items()}
PARTS = 4
SIZES = (8, 3, 10)  # of the batches; with 3 images a part is empty

Results = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    net: type[OneDevice] | type[TwoHalves]
    dtype: torch.dtype = torch.float32
    reduce: Reduce = "ordered"
    alone: int = buckets.ALONE

    def new_net(self) -> Net:
        if self.net is OneDevice:
            return OneDevice(RECIPE, seed=0, device=CPU, dtype=self.dtype)
        return TwoHalves(RECIPE, seed=0, devices=(CPU, CPU), dtype=self.dtype)


VARIANTS = {
    "halves": Variant(TwoHalves, alone=300),
    "one device": Variant(OneDevice),
    "bfloat16": Variant(TwoHalves, torch.bfloat16, alone=300),
    "fast": Variant(TwoHalves, torch.float64, "fast"),
}
BY_RANKS = {2: ("halves", "one device", "bfloat16"), 4: ("halves", "fast")}
RACES = [(2, ""), (2, "gradients ready"), (2, "gradients summed"), (4, "")]  # parts, and the waits that are left out


def steps(variant: Variant, world: World, parts: int = PARTS) -> Results:
    """Weights and velocities after the steps, of all ranks what they told."""
    buckets.ALONE = variant.alone
    net = variant.new_net()
    sgd = Sgd(net.parameters, momentum=0.9, weight_decay=5e-4, decay_biases=False)
    step = GlobalStep(net, world, Division(world.ranks, parts, variant.reduce))
    draws = torch.Generator().manual_seed(1)
    told = []
    for number, size in enumerate(SIZES):
        x = (60 * torch.randn(size, 3, SIDE, SIDE, generator=draws)).to(variant.dtype)
        labels = torch.randint(5, (size,), generator=draws)
        mine = slice(size * world.rank // world.ranks, size * (world.rank + 1) // world.ranks)
        inputs = (x[mine],) * len(net.input_devices)
        told.append(world.all_gather(step(inputs, labels[mine], step=number, whole=size)).view(-1, 2))
        sgd.step(RATES)
    found = {f"told {index}": each for index, each in enumerate(told)}
    return found | net.gather() | {f"velocity {name}": each for name, each in net.gather(sgd.velocities).items()}


def races(world: World, parts: int, leave_out: str) -> RaceDetector:
    """Two steps, the caller writing pixels before and reading gradients after."""
    detector = RaceDetector(leave_out)
    net = TwoHalves(replace(RECIPE, dropout=0.0), seed=0, devices=(CPU, CPU), streams=detector)
    step = GlobalStep(net, world, Division(world.ranks, parts), detector)
    x, current = torch.zeros(2, 3, SIDE, SIDE), detector.current(CPU)
    with detector.watching():
        for number, whole in enumerate((4, 1)):
            count = whole * (world.rank + 1) // world.ranks - whole * world.rank // world.ranks
            with detector.on(current):
                x.normal_(0, 60)
            pixels = x[:count]
            step((pixels, pixels), torch.zeros(count).long(), step=number, whole=whole)
            with detector.on(current):
                for parameter in net.parameters:
                    assert parameter.gradient is not None
                    parameter.weight.data.sub_(parameter.gradient, alpha=1e-4)
    return detector


def _as_rank(rank: int, ranks: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with World.from_environment(60) as world:
        for name in BY_RANKS[ranks]:
            torch.save(steps(VARIANTS[name], world), folder / f"{name} {rank} of {ranks}")
        if ranks == 2:
            found = [races(world, parts, leave_out).races for parts, leave_out in RACES]
            (folder / f"races {rank}").write_text(json.dumps(found))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main(folder: Path) -> int:
    """The number of ranks that failed."""
    torch.set_num_threads(1)
    failed = 0
    for ranks in BY_RANKS:
        port, children = _free_port(), []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                try:
                    _as_rank(rank, ranks, port, folder)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            children.append(child)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
