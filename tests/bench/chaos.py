"""Cost of kills, stops, restarts and cut links, which change nothing. Each mode ends with a line of figures.

    python tests/bench/chaos.py workers --seconds 200             a random worker of two killed every second
    python tests/bench/chaos.py workers --seconds 200 --stop      the same, stopped (SIGSTOP) instead
    python tests/bench/chaos.py hosts --times 20                  one of two services killed, and started again later
    python tests/bench/chaos.py deaths --times 20                 an only service killed, which its command starts again
    python tests/bench/chaos.py restarts --times 20               an only loader killed as a whole and started again
    python tests/bench/chaos.py link --times 20                   the link to one of two hosts cut for a while (as root)
    python tests/bench/chaos.py trainer --times 20                the trainer killed, resumed with other workers
    python tests/bench/chaos.py cluster --epochs 400              the service under run_cluster.sh killed till the end

Calm and disturbed rounds alternate, and read the same epochs: 128 crops of 227 a batch, delivered to this process,
each epoch's records and pixels hashed. `--data PHOTOS` takes what alexnet-pack takes; generated images without it. The
exit code is 1 if a digest differs. `trainer` trains a narrow net on drawn images, on the CPU, and saves after
every step; it is killed at random moments, six of seven of them moments of a save.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from common.client.client import LoaderClient
from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from tests.bench import photos
from tests.support.chaos import Action, Disturber, Mortal, Reading, read_epochs

SPEC = StreamSpec(split="train", seed=7, crop=227)
BATCH = 128


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Figures:
    """Calm and disturbed readings of the same epochs, and how often it was disturbed."""

    calm: list[Reading] = field(default_factory=list)
    disturbed: list[Reading] = field(default_factory=list)
    times: int = 0

    @property
    def seconds(self) -> float:
        return sum(reading.seconds for reading in self.disturbed)

    def same(self) -> bool:
        return [reading.digests for reading in self.calm] == [reading.digests for reading in self.disturbed]

    def tell(self, what: str) -> bool:
        calm, disturbed = ([reading.images_per_s for reading in of] for of in (self.calm, self.disturbed))
        ratio = sum(reading.seconds for reading in self.calm) / self.seconds
        waits = [max(reading.longest_wait_s for reading in of) for of in (self.disturbed, self.calm)]
        say(
            f"{what}: {self.times} times in {self.seconds:.0f} s; {sum(map(len, (r.digests for r in self.disturbed)))}"
            f" epochs, each record once in each, digests {'equal' if self.same() else 'DIFFER'};"
            f" {statistics.median(disturbed):.0f} images/s, calm {statistics.median(calm):.0f}, {ratio:.2f} of it;"
            f" longest wait for a batch {waits[0]:.2f} s, calm {waits[1]:.2f} s"
        )
        return self.same()


def measure(
    endpoints: list[str],
    transport: Transport,
    actions: Mapping[str, tuple[float, Action]],
    pause_s: tuple[float, float],
    given: argparse.Namespace,
) -> Figures:
    """Alternate calm and disturbed rounds until it was disturbed for so long, and so often."""
    figures, epoch = Figures(), 0
    with LoaderClient(endpoints, transport=transport) as loader:
        stream = loader.stream(SPEC, BATCH)
        while figures.seconds < given.seconds or figures.times < given.times:
            calm = read_epochs(stream, epoch, lambda reading: reading.seconds > given.round_seconds)
            with Disturber(actions, pause_s, seed=epoch) as disturber:
                epochs = len(calm.digests)
                disturbed = read_epochs(stream, epoch, lambda reading, epochs=epochs: len(reading.digests) == epochs)  # type: ignore[misc]
            epoch += epochs
            figures.calm.append(calm)
            figures.disturbed.append(disturbed)
            figures.times += sum(disturber.done.values())
            say(f"  calm {calm.images_per_s:.0f} images/s, disturbed {disturbed.images_per_s:.0f}")
    return figures


def workers(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    data = photos.packed_records(given.data, folder, given.records)
    host = stack.enter_context(Mortal(data, folder, given.workers))
    action = host.stop_worker if given.stop else host.kill_worker
    what = f"a worker of {given.workers} {'stopped' if given.stop else 'killed'} every {given.every:g} s"
    return measure([host.endpoint], "auto", {what: (1, action)}, (given.every, given.every), given).tell(what)


def hosts(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    data = photos.packed_records(given.data, folder, given.records)
    both = [stack.enter_context(Mortal(data, folder, given.workers, seed=n)) for n in range(2)]
    actions = {f"host {n}": (1.0, partial(host.restart, given.down)) for n, host in enumerate(both)}
    figures = measure([host.endpoint for host in both], "auto", actions, (given.every, given.every), given)
    return figures.tell(f"one of two services killed, and started again after {given.down:g} s")


def deaths(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    return only(given, stack, folder, Mortal.kill_service, "the only service killed, and started again by its command")


def restarts(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    return only(given, stack, folder, Mortal.restart, "the only loader killed as a whole and started again")


def only(
    given: argparse.Namespace, stack: ExitStack, folder: Path, action: Callable[[Mortal], None], what: str
) -> bool:
    data = photos.packed_records(given.data, folder, given.records)
    host = stack.enter_context(Mortal(data, folder, given.workers))
    actions = {what: (1.0, partial(action, host))}
    return measure([host.endpoint], "auto", actions, (given.every, given.every), given).tell(what)


@contextmanager
def namespace(number: int) -> Iterator[tuple[list[str], str, str]]:
    """A network namespace that is reached over a link: the command that enters it, its name, its address."""
    name, ours = f"alexnet-{os.getpid()}-{number}", f"alx{os.getpid() % 100000}-{number}"
    address, gateway = (f"10.213.{number}.{last}" for last in (2, 1))
    commands = [
        f"ip netns add {name}",
        f"ip link add {ours} type veth peer name eth0 netns {name}",
        f"ip addr add {gateway}/24 dev {ours}",
        f"ip link set {ours} up",
        f"ip -n {name} addr add {address}/24 dev eth0",
        f"ip -n {name} link set eth0 up",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True, text=True)
        yield ["ip", "netns", "exec", name], name, address
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def cut(name: str, seconds: float) -> None:
    """Nothing passes the namespace's link for a while, and nobody is told."""
    subprocess.run(f"ip -n {name} link set eth0 down".split(), check=True)
    time.sleep(seconds)
    subprocess.run(f"ip -n {name} link set eth0 up".split(), check=True)


def link(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    try:
        spaces = [stack.enter_context(namespace(number)) for number in range(2)]
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        say(f"link: not measured: no network namespaces here ({getattr(error, 'stderr', error)!s})")
        return True
    data = photos.packed_records(given.data, folder, given.records)
    both = [
        stack.enter_context(Mortal(data, folder, given.workers, f"tcp://{address}:*", "--insecure", prefix=enter))
        for enter, _, address in spaces
    ]
    actions = {name: (1.0, partial(cut, name, given.down)) for _, name, _ in spaces}
    figures = measure([host.endpoint for host in both], "frames", actions, (given.every, given.every), given)
    return figures.tell(f"the link to one of two hosts cut for {given.down:g} s")


def trainer(given: argparse.Namespace, _: ExitStack, folder: Path) -> bool:
    from tests.bench.killed_trainer import kill_again_and_again

    return kill_again_and_again(folder, given.times, given.epochs, random.Random(given.seed), say)


def cluster(given: argparse.Namespace, stack: ExitStack, folder: Path) -> bool:
    from tests.support.clusters import TRIAL, Cluster, final_weights, small_data

    data = small_data(folder)
    runs = [folder / "undisturbed", folder / "killed"]
    codes, times, seconds = list[int](), 0, list[float]()
    for run in runs:
        began = time.monotonic()
        training = Cluster(run, "--data", data, "--epochs", str(given.epochs), *TRIAL)
        stack.callback(training.process.terminate)
        training.train()
        while run.name == "killed" and training.process.poll() is None:
            times += training.kill_service()
            with suppress(subprocess.TimeoutExpired):
                training.process.wait(timeout=given.every)
        codes.append(training.process.wait())
        if codes[-1] != 0:
            say(training.output.read_text())
        seconds.append(time.monotonic() - began)
    same = codes == [0, 0] and final_weights(runs[0]) == final_weights(runs[1])
    say(
        f"the service of a training killed {times} times, every {given.every:g} s: {seconds[1]:.0f} s, undisturbed"
        f" {seconds[0]:.0f} s; exit codes {codes}, final weights {'equal, bit for bit' if same else 'DIFFER'}"
    )
    return same


MODES = {
    "cluster": cluster,
    "workers": workers,
    "hosts": hosts,
    "deaths": deaths,
    "restarts": restarts,
    "link": link,
    "trainer": trainer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--workers", type=int, default=2, help="of each service")
    parser.add_argument("--records", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="disturbed for at least so long")
    parser.add_argument("--times", type=int, default=0, help="disturbed at least so often")
    parser.add_argument("--every", type=float, default=None, help="seconds between two; 1 for workers, else 3")
    parser.add_argument("--down", type=float, default=2.0, help="seconds that a host or a link stays away")
    parser.add_argument("--stop", action="store_true", help="stop workers instead of killing them")
    parser.add_argument("--round-seconds", type=float, default=10.0, help="of each calm round")
    parser.add_argument("--epochs", type=int, default=40, help="of the trainer, of the cluster")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.every is None:
        given.every = 1.0 if given.mode == "workers" else 3.0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if not MODES[given.mode](given, stack, Path(name)):
            sys.exit(1)


if __name__ == "__main__":
    main()
