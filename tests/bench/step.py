"""Images a second of a training step: one device, two halves, and plain PyTorch.

    python tests/bench/step.py [--gpus 0,0] [--precision fp32 ...] [--width 0.25] [--batch 64 ...] [--rounds 7]

Forward, backward and update of the `paper` network; synthetic pixels that lie on the device. All take turns, so that a
noisy machine hits all alike; median and range of the rounds. Plain PyTorch is the same network of stock modules:
grouped nn.Conv2d, nn.LocalResponseNorm, nn.Dropout, torch.optim.SGD, NCHW; in bf16 under autocast, and all in bfloat16.

All is measured twice, in processes of their own: as alexnet-trainer computes, with the same bits each time
(`make_repeatable`), for which cuDNN and cuBLAS leave some of their algorithms out, and with any of them. The figures to
publish are the trainer's. `--algorithms` chooses one; `--kernels` tells what such a step runs. The halves after half a
batch have recorded their graphs twice, and should be as fast as those that began with the whole one.

The floor is what no step can take less than: the arithmetic at the best speed that a matrix product of any shape, or a
step, came to in any round, or the weights' bytes at the best of a copy, whichever takes longer; both may overlap. So
no contender is below 1 floor.

With `--busy` other programs use the cores meanwhile; what OMP_WAIT_POLICY=passive does shows then. On a CPU all compute
in one process, whose freed memory is kept, as alexnet-trainer does; `--malloc system` leaves it to the C library, as
plain PyTorch does.
"""

import argparse
import contextlib
import gc
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from common.malloc import keep_all_blocks
from tests.bench.kernels import kernels
from tests.bench.plain_net import plain
from trainer.device.devices import DTYPES, describe, devices_of_halves, make_repeatable, set_precision
from trainer.network.model import reference_shapes
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.two_halves import TwoHalves
from trainer.ops.convolution import space_to_depth
from trainer.recipes.named import PAPER
from trainer.recipes.recipe import Recipe
from trainer.training.profile import WatchedStreams
from trainer.training.schedule import Schedule
from trainer.training.sgd import Sgd

Step = Callable[[], None]
Devices = tuple[torch.device, torch.device]
OUTPUT_PIXELS = {"conv1": 55**2, "conv2": 27**2, "conv3": 13**2, "conv4": 13**2, "conv5": 13**2}
WARM_UP_STEPS = 5  # graphs are recorded at the third
PROFILED_STEPS = 10
HALVES = "two halves on it"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@dataclass(frozen=True)
class Case:
    """Settings shared by all contenders of a table; `precision` is fp32, tf32 or bf16."""

    recipe: Recipe
    devices: Devices
    precision: str
    batch: int

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def images(self, device: torch.device) -> Tensor:
        draws = torch.Generator().manual_seed(0)
        return 60 * torch.randn(self.batch, 3, 227, 227, generator=draws).to(device)

    def labels(self) -> Tensor:
        return (torch.arange(self.batch) % self.recipe.classes).to(self.devices[0])


def plain_step(case: Case, *, autocast: bool) -> Step:
    device = case.devices[0]
    own = torch.float32 if autocast else case.dtype
    model = plain(case.recipe).to(device, own)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=0.0005)
    x, labels = case.images(device).to(own), case.labels()

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast and case.dtype == torch.bfloat16):
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def our_step(case: Case, net: Net, streams: WatchedStreams, before: int = 0) -> Step:
    """A step of the case's batch, after some of `before` images each."""
    optimiser = Sgd(net.parameters, momentum=0.9, weight_decay=0.0005, decay_biases=True, streams=streams, graphs=True)
    rates = {name: 1e-4 * rate for name, rate in Schedule(case.recipe).rates(0).items()}
    inputs = {
        device: space_to_depth(case.images(device), case.recipe.input_shape.fold).to(case.dtype)
        for device in net.input_devices
    }
    x, labels = tuple(inputs[device] for device in net.input_devices), case.labels()

    def step(images: int = case.batch) -> None:
        net.train_step(tuple(each[:images] for each in x), labels[:images], step=0)
        optimiser.step(rates)

    for _ in range(WARM_UP_STEPS if before else 0):
        step(before)
    return step


def contenders(case: Case) -> dict[str, tuple[Callable[[WatchedStreams], Step], bool]]:
    """Makers of each contender's step, with True if it exchanges anything."""
    first = case.devices[0]

    def halves(devices: Devices, streams: WatchedStreams, before: int = 0) -> Step:
        net = TwoHalves(case.recipe, seed=0, devices=devices, dtype=case.dtype, streams=streams, graphs=True)
        return our_step(case, net, streams, before)

    def one(streams: WatchedStreams) -> Step:
        net = OneDevice(case.recipe, seed=0, device=first, dtype=case.dtype, streams=streams, graphs=True)
        return our_step(case, net, streams)

    table: dict[str, tuple[Callable[[WatchedStreams], Step], bool]] = {
        "one device": (one, False),
        HALVES: (lambda streams: halves((first, first), streams), True),
        "after half a batch": (lambda streams: halves((first, first), streams, case.batch // 2), False),
    }
    if case.devices[1] != first:
        table["two halves on two"] = (lambda streams: halves(case.devices, streams), True)
    if case.precision == "bf16":
        table["plain, autocast"] = (lambda _: plain_step(case, autocast=True), False)
    name = "plain, all bfloat16" if case.precision == "bf16" else "plain PyTorch"
    table[name] = (lambda _: plain_step(case, autocast=False), False)
    return table


def synchronize(devices: Devices) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def seconds_a_step(step: Step, devices: Devices, count: int) -> float:
    synchronize(devices)
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(devices)
    return (time.perf_counter() - start) / count


def flop(recipe: Recipe, batch: int) -> float:
    """Operations of a step: forward, the gradient by the weights and, but for conv1, by the inputs."""
    forward = {
        name: 2 * math.prod(shape) * OUTPUT_PIXELS.get(name.split(".")[0], 1)
        for name, shape in reference_shapes(recipe).items()
        if name.endswith(".weight")
    }
    return batch * (3 * sum(forward.values()) - forward["conv1.weight"])


def product_rate(case: Case) -> float:
    """FLOP/s of the fastest matrix product: squares, and the shapes of the step's own large layers, in every round."""
    device, batch = case.devices[0], case.batch
    on_cpu = (256, 512) if case.dtype == torch.bfloat16 else (256, 512, 1024)  # few CPUs have a unit for bfloat16
    sides: tuple[int, ...] = (2048, 4096, 8192) if device.type == "cuda" else on_cpu
    shapes = [(side, side, side) for side in sides]
    for layer, (rows, *columns) in reference_shapes(case.recipe).items():
        if columns:
            shapes.append((rows, math.prod(columns), batch * OUTPUT_PIXELS.get(layer.split(".")[0], 1)))
    rates = []
    for m, k, n in shapes:
        a, b = torch.randn(m, k, device=device).to(case.dtype), torch.randn(k, n, device=device).to(case.dtype)
        product = partial(torch.mm, a, b, out=torch.empty(m, n, device=device, dtype=case.dtype))
        rates.append(2 * m * k * n / best(product, case.devices))
    return max(rates)


def floor_s(case: Case, fastest_s: float) -> tuple[float, str]:
    """The least a step can take on one device, and what that is made of; `fastest_s` is the fastest step there was."""
    memory, other = (torch.empty(1 << 27, device=case.devices[0]).fill_(1) for _ in range(2))
    operand = case.dtype.itemsize
    each = 4 * 4 + 2 * operand + (operand if operand < 4 else 0)  # weight, velocity: read, written; gradient; operand
    moved = each * sum(math.prod(shape) for shape in reference_shapes(case.recipe).values())
    work = flop(case.recipe, case.batch)
    rate = max(product_rate(case), work / fastest_s)
    bandwidth = max(2 * memory.numel() * 4 / best(lambda: other.copy_(memory), case.devices), moved / fastest_s)
    total = max(work / rate, moved / bandwidth)
    made_of = (
        f"{work / 1e12:.3f} TFLOP at {rate / 1e12:.2f} TFLOP/s, {moved / 1e9:.2f} GB at {bandwidth / 1e9:.0f} GB/s"
    )
    return total, made_of


def best(work: Callable[[], object], devices: Devices) -> float:
    def once() -> None:
        work()

    return min(seconds_a_step(once, devices, 3) for _ in range(4))


def peak_gib(make: Callable[[WatchedStreams], Step], case: Case) -> float:
    """Memory of the first GPU that a contender takes, alone."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(case.devices[0])
    step = make(WatchedStreams())
    seconds_a_step(step, case.devices, WARM_UP_STEPS)
    return torch.cuda.max_memory_allocated(case.devices[0]) / 2**30


def exposed_ms(step: Step, streams: WatchedStreams, devices: Devices) -> float:
    """Milliseconds a step that a half only waited for the other; of the half that waited longer."""
    streams.watching = True
    seconds_a_step(step, devices, PROFILED_STEPS)
    streams.watching = False
    waits: dict[str, float] = {}
    for (stream, name), seconds in streams.seconds().items():
        if name.endswith(" wait"):
            waits[stream] = waits.get(stream, 0.0) + seconds
    return 1000 * max(waits.values()) / PROFILED_STEPS


def measure(case: Case, rounds: int, with_kernels: bool) -> None:
    set_precision(case.precision)
    on_gpu = case.devices[0].type == "cuda"
    table = contenders(case)
    memory = {name: peak_gib(make, case) for name, (make, _) in table.items()} if on_gpu else {}
    streams = {name: WatchedStreams() for name in table}
    steps = {name: make(streams[name]) for name, (make, _) in table.items()}
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for turn in range(rounds + 1):  # the first is a warm-up
        for name, step in steps.items():
            taken = seconds_a_step(step, case.devices, (20 if turn else WARM_UP_STEPS) if on_gpu else 1)
            seconds[name] += [taken] if turn else []
    floor, made_of = floor_s(case, min(min(each) for each in seconds.values()))
    sys.stdout.write(f"\n{case.precision}, width {case.recipe.width:g}, batch {case.batch}; {rounds} rounds\n")
    sys.stdout.write(f"floor {1000 * floor:.2f} ms: {made_of}\n")
    fastest_plain = min((name for name in table if "plain" in name), key=lambda name: statistics.median(seconds[name]))
    plain_s = statistics.median(seconds[fastest_plain])
    for name, (_, exchanges) in table.items():
        median, each = statistics.median(seconds[name]), seconds[name]
        images = [case.batch / value for value in (median, max(each), min(each))]
        line = f"{name:20s} {images[0]:8,.0f} images/s ({images[1]:,.0f} to {images[2]:,.0f})  {1000 * median:8.2f} ms"
        line += f"  {median / floor:5.1f} floors  {plain_s / median:5.2f} x {fastest_plain}"
        line += f"  {memory[name]:5.2f} GiB" if on_gpu else ""
        line += f"  exchange exposed {exposed_ms(steps[name], streams[name], case.devices):.3f} ms" if exchanges else ""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if with_kernels:
        sys.stdout.write(f"{HALVES}:\n{kernels(steps[HALVES], case.devices[0])}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gpus", help="0, or 0,1; without, on the CPU")
    parser.add_argument("--precision", nargs="+", choices=sorted(DTYPES), default=["fp32"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=2, help="that compute on the CPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--malloc", choices=["kept", "system"], default="kept", help="of all contenders")
    parser.add_argument("--busy", type=int, default=0, help="other processes that keep a core busy each")
    parser.add_argument("--kernels", action="store_true", help="list those of two halves on one device")
    parser.add_argument("--algorithms", choices=["repeatable", "any"], help="without, both, one after the other")
    given = parser.parse_args()
    if given.algorithms is None:
        for each in ("repeatable", "any"):
            subprocess.run([sys.executable, *sys.argv, "--algorithms", each], check=True)
        return
    torch.set_num_threads(given.threads)
    devices = devices_of_halves(given.gpus, given.gpus is None)
    if given.malloc == "kept":
        keep_all_blocks()
    if given.algorithms == "repeatable":
        make_repeatable(given.threads)
    setting = f"{given.threads} threads, {given.busy} other processes busy, malloc: {given.malloc}"
    setting += f", algorithms: {'repeatable' if torch.are_deterministic_algorithms_enabled() else 'any'}"
    sys.stdout.write(f"{describe(devices[0])}, {setting}\n")
    with busy(given.busy):
        for kind in given.precision:
            for batch in given.batch:
                measure(Case(replace(PAPER, width=given.width), devices, kind, batch), given.rounds, given.kernels)


if __name__ == "__main__":
    main()
