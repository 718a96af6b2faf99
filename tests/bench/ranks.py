"""Steps of several ranks on the CPU beside those of one process, and the exchange of their gradients.

    python tests/bench/ranks.py [--recipe source] [--width 1] [--batch 64] [--ranks 2] [--seconds 20] [--rounds 5]
    python tests/bench/ranks.py --link-gbit 10 25

One process of as many threads as there are ranks, the same in as many parts, and the ranks, a thread each, compute
batches of made images: forward, backward, exchange, update. They take turns, in rounds of --seconds. Figures are
medians of the rounds (lowest to highest); a round's ratio is to that of one process beside it.

    exposed   the largest of the ranks' shares of a step in which `finish` waits for the exchange
    bytes     what a rank hands to the collectives for others, a step

With --link-gbit it measures one process on all cores, and tests/bench/links.py computes what such links leave of it.
"""

import argparse
import math
import multiprocessing
import os
import socket
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

import torch
import torch.distributed as dist
from torch import Tensor

from common.malloc import keep_all_blocks
from tests.bench import links
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.ranks import averaging
from trainer.ranks.collectives import Collectives
from trainer.ranks.global_step import GlobalStep
from trainer.ranks.share import Division
from trainer.ranks.world import World
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

CPU = torch.device("cpu")
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    batch: int
    reduce: Any
    parts: int = 1
    ranks: int = 1
    threads: int = 1
    port: int = 0


@dataclass(frozen=True)
class Round:
    """One rank's."""

    steps: int
    seconds: float
    waited_s: float
    sent_bytes: int


class Counting(Collectives):
    """Counts the bytes that leave."""

    sent_bytes = 0
    ranks = 1

    def exchange(self, received: Tensor, sent: Tensor) -> dist.Work:
        Counting.sent_bytes += sent.nbytes * (self.ranks - 1) // self.ranks
        return super().exchange(received, sent)

    def gather(self, whole: Tensor, mine: Tensor) -> None:
        Counting.sent_bytes += mine.nbytes * (self.ranks - 1)
        super().gather(whole, mine)

    def add(self, summed: Tensor) -> dist.Work:
        Counting.sent_bytes += 2 * summed.nbytes * (self.ranks - 1) // self.ranks  # a ring's
        return super().add(summed)


class Member:
    """A net in a process of its own, and its steps."""

    def __init__(self, case: Case, world: World) -> None:
        recipe = case.recipe
        net = (
            TwoHalves(recipe, seed=0, devices=(CPU, CPU))
            if recipe.columns == 2
            else OneDevice(recipe, seed=0, device=CPU)
        )
        self._sgd = Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=True)
        self._rates = {name: 1e-4 * rate for name, rate in Schedule(recipe).rates(0).items()}
        self._case, self._step = case, GlobalStep(net, world, Division(world.ranks, case.parts, case.reduce))
        share = case.batch * (world.rank + 1) // world.ranks - case.batch * world.rank // world.ranks
        draws = torch.Generator().manual_seed(world.rank)
        side = recipe.input_size
        self._x = (60 * torch.randn(share, 3, side, side, generator=draws),) * len(net.input_devices)
        self._labels = torch.arange(share) % recipe.classes
        self._waited_s = 0.0
        self.gradient_bytes = sum(parameter.operand.nbytes for parameter in net.parameters)
        self._time_finish()

    def round(self, steps: int) -> Round:
        self._waited_s, sent_before, started_s = 0.0, Counting.sent_bytes, time.perf_counter()
        for number in range(steps):
            self._step(self._x, self._labels, step=number, whole=self._case.batch)
            self._sgd.step(self._rates)
        return Round(steps, time.perf_counter() - started_s, self._waited_s, Counting.sent_bytes - sent_before)

    def _time_finish(self) -> None:
        exchange = self._step._averaging
        if exchange is None:
            return
        finish = exchange.finish

        def timed() -> None:
            started_s = time.perf_counter()
            finish()
            self._waited_s += time.perf_counter() - started_s

        exchange.finish = timed  # type: ignore[method-assign]


def member(case: Case, rank: int, line: "Connection[Any, Any]") -> None:
    """The process of one rank: answers the number of bytes of its gradients, then each number of steps by a Round."""
    torch.set_num_threads(case.threads)
    keep_all_blocks()
    if case.ranks > 1:
        places = {"RANK": rank, "WORLD_SIZE": case.ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": case.port}
        os.environ |= {name: str(value) for name, value in places.items()}
    Counting.ranks = case.ranks
    averaging.Collectives = Counting  # type: ignore[attr-defined]
    with World.from_environment(TIMEOUT_S) as world:
        computing = Member(case, world)
        line.send(computing.gradient_bytes)
        while steps := line.recv():
            line.send(computing.round(steps))


class Team:
    """The ranks of one case."""

    def __init__(self, case: Case, stack: ExitStack) -> None:
        self.case = case
        context = multiprocessing.get_context("spawn")
        self._lines = []
        for rank in range(case.ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=member, args=(case, rank, theirs), daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            stack.callback(process.join)
        for line in self._lines:
            stack.callback(line.send, 0)
        self.gradient_bytes, *_ = [line.recv() for line in self._lines]

    def round(self, steps: int) -> list[Round]:
        for line in self._lines:
            line.send(steps)
        return [line.recv() for line in self._lines]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def figures(values: list[float], digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(case: Case, ranks: int, seconds: float, rounds: int) -> None:
    """The table of speeds."""
    cases = {
        f"one process, {ranks} threads": replace(case, threads=ranks),
        f"the same in {ranks} parts": replace(case, threads=ranks, parts=ranks),
        f"{ranks} ranks, a thread each": replace(case, parts=ranks, ranks=ranks, port=free_port()),
    }
    with ExitStack() as stack:
        teams = {name: Team(each, stack) for name, each in cases.items()}
        steps = {name: max(1, math.ceil(seconds / slowest(team.round(2)) * 2)) for name, team in teams.items()}
        found: dict[str, list[list[Round]]] = {name: [] for name in teams}
        for _ in range(rounds):
            for name, team in teams.items():
                found[name].append(team.round(steps[name]))
        undivided, _, shared = teams
        tell(case.batch, found, undivided)
        told = found[shared]
        exposed = [max(rank.waited_s / rank.seconds for rank in each) for each in told]
        formula = 2 * (ranks - 1) * teams[shared].gradient_bytes // ranks
        say(f"\nexposed exchange, of a step: {figures(exposed)}")
        say(
            f"bytes a rank and step: {told[0][0].sent_bytes // told[0][0].steps}; 2 (R - 1) / R of gradients: {formula}"
        )


def slowest(ranks: list[Round]) -> float:
    return max(rank.seconds for rank in ranks)


def tell(batch: int, found: dict[str, list[list[Round]]], first: str) -> None:
    speeds = {name: [each[0].steps * batch / slowest(each) for each in told] for name, told in found.items()}
    say("| | images/s | of the first |\n|---|---|---|")
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, speeds[first], strict=True)]
        say(f"| {name} | {figures(values, 1)} | {figures(ratios)} |")


def on_links(case: Case, rounds: int, links_gbit: list[float]) -> None:
    with ExitStack() as stack:
        team = Team(replace(case, threads=os.cpu_count() or 1), stack)
        team.round(1)
        step_ms = 1000 * statistics.median(slowest(team.round(1)) for _ in range(rounds))
    say(f"a step of {case.batch} images: {step_ms:.0f} ms\n")
    say(links.table([links.Rank("this machine, fp32", case.batch, step_ms, 4)], links_gbit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="source")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--reduce", choices=("ordered", "fast"), default="ordered")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--link-gbit", type=float, nargs="+")
    asked = parser.parse_args()
    recipe = RECIPES[asked.recipe]
    case = Case(replace(recipe, width=recipe.width * asked.width), asked.batch, asked.reduce)
    if asked.link_gbit:
        on_links(case, asked.rounds, asked.link_gbit)
    else:
        compare(case, asked.ranks, asked.seconds, asked.rounds)


if __name__ == "__main__":
    main()
