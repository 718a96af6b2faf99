"""Images a second of a training step on the CPU: one device, two halves, and plain PyTorch.

    python tests/bench/step.py [--width 0.25] [--batch 64] [--threads 2] [--rounds 7] [--busy 0]

Forward, backward and update; synthetic pixels. The three take turns, so that a noisy machine hits all alike. Plain
PyTorch is the same `paper` network of stock modules: nn.LocalResponseNorm, nn.Dropout, torch.optim.SGD, NCHW.
With `--busy` other programs use the cores meanwhile; what OMP_WAIT_POLICY=passive does about it shows then.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.net import Net, Pixels
from trainer.one_device import OneDevice
from trainer.recipe import PAPER, Recipe
from trainer.schedule import Schedule
from trainer.sgd import Sgd
from trainer.two_halves import TwoHalves

CPU = torch.device("cpu")


class TwoNorms(nn.Module):
    """Each half normalised by itself, as the paper's two GPUs do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(half) for half in x.chunk(2, dim=1)], dim=1)


def plain(recipe: Recipe) -> nn.Module:
    c1, c2, c3, c4, c5 = (2 * channels for channels in recipe.channels)
    units = 2 * recipe.fc_units
    return nn.Sequential(
        *(nn.Conv2d(3, c1, 11, stride=4), nn.ReLU(), TwoNorms(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c1, c2, 5, padding=2, groups=2), nn.ReLU(), TwoNorms(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(), nn.Conv2d(c3, c4, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(c4, c5, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(36 * c5, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Dropout()),
        nn.Linear(units, recipe.classes),
    )


def plain_step(recipe: Recipe, x: Tensor, labels: Tensor) -> Callable[[], None]:
    model = plain(recipe)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=0.0005)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def our_step(net: Net, recipe: Recipe, x: Pixels, labels: Tensor) -> Callable[[], None]:
    optimiser = Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=True)
    rates = {name: 1e-4 * rate for name, rate in Schedule(recipe).rates(0).items()}

    def step() -> None:
        net.train_step(x, labels, step=0)
        optimiser.step(rates)

    return step


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many other processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy", type=int, default=0, help="other processes that keep a core busy each")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = replace(PAPER, width=given.width)
    x = 60 * torch.randn(given.batch, 3, 227, 227)
    last = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(recipe.classes, (given.batch,))
    steps = {
        "one device": our_step(OneDevice(recipe, seed=0, device=CPU), recipe, (last,), labels),
        "two halves": our_step(TwoHalves(recipe, seed=0, devices=(CPU, CPU)), recipe, (last, last), labels),
        "plain PyTorch": plain_step(recipe, x, labels),
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    with busy(given.busy):
        for turn in range(given.rounds + 1):  # the first is a warm-up
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn:
                    rates[name].append(given.batch / (time.perf_counter() - start))
    sys.stdout.write(
        f"width {given.width}, batch {given.batch}, {given.threads} threads, {given.rounds} rounds,"
        f" {given.busy} other processes busy\n"
    )
    for name, each in rates.items():
        median = statistics.median(each)
        sys.stdout.write(f"{name:14s} {median:7.1f} images/s  ({min(each):.1f} to {max(each):.1f})\n")


if __name__ == "__main__":
    main()
