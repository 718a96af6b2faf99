"""CPU time an image of one service and of several, and how evenly a client reads from them.

    python tests/bench/several_services.py [--services 1 2] [--keys] [--workers 2] [--rounds 5] [--seconds 3]

Pixels go over tcp on loopback, encrypted with --keys, decoded beforehand, to one client. Of each command, medians of
the rounds, which alternate: microseconds of CPU an image of each service (without its workers), of the client, and of
all; that sum by the one of the first; and the images of the busiest service by an even share.
"""

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from common.client.client import LoaderClient
from common.wire import keys
from tests.bench import contenders, photos
from tests.bench.services import BATCH, SPEC, Setting, cpu_seconds
from tests.support.processes import ANY_PORT, LoaderProcess, children
from tests.support.scrapes import scrape


class SeveralServices:
    """A command with so many services, and a client that has read an epoch from them."""

    def __init__(self, setting: Setting, services: int, key_folder: Path | None) -> None:
        options = [f"--services={services}", "--metrics=127.0.0.1:*", f"--decoded-gib={services * setting.decoded_gib}"]
        options += [f"--keys={key_folder}"] if key_folder is not None else []
        command = LoaderProcess(setting.data, setting.folder, setting.workers, ANY_PORT, *options, restarts=True)
        setting.stack.enter_context(command)
        self._services = children(command.process.pid)
        (self._url,) = command.figures_at
        client = setting.stack.enter_context(LoaderClient(command.endpoints, transport="frames", keys=key_folder))
        batches = client.stream(SPEC, BATCH).batches(range(10**6))
        next(batch for batch in batches if batch.epoch == 2)
        self._sizes = (len(batch) for batch in batches)
        self.rounds: list[list[float]] = []  # us an image of each service, and of the client last
        self.busiest: list[float] = []

    def run(self, seconds: float) -> None:
        images_before, before = self._images(), self._cpu()
        images, _ = contenders.counted(self._sizes, seconds)
        self.rounds.append([(b - a) / images * 1e6 for a, b in zip(before, self._cpu(), strict=True)])
        sent = [b - a for a, b in zip(images_before, self._images(), strict=True)]
        self.busiest.append(max(sent) / (sum(sent) / len(sent)))

    def _cpu(self) -> list[float]:
        return [cpu_seconds([pid]) for pid in (*self._services, os.getpid())]

    def _images(self) -> list[float]:
        if len(self._services) == 1:
            return [scrape(self._url).total("images_total")]
        figures = scrape(self._url)
        return [figures.total("images_total", service=str(number)) for number in range(len(self._services))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[1, 2], help="services of each command")
    parser.add_argument("--keys", action="store_true", help="encrypt")
    parser.add_argument("--workers", type=int, default=2, help="of all services")
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each command in each round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        key_folder = Path(folder) / "keys" if given.keys else None
        if key_folder is not None:
            keys.make(key_folder)
        data = photos.packed_records(None, Path(folder), given.records)
        setting = Setting(data, Path(folder), given.records, given.workers, stack)
        commands = {count: SeveralServices(setting, count, key_folder) for count in given.services}
        for _ in range(given.rounds):
            for command in commands.values():
                command.run(given.seconds)
        report(commands)


def report(commands: dict[int, SeveralServices]) -> None:
    first = next(iter(commands.values()))
    sys.stdout.write(
        f"{'services':>8}  {'CPU us an image of each':<32}{'client':>8}{'all':>8}{'of first':>10}{'busiest':>9}\n"
    )
    for count, command in commands.items():
        *each, client = (statistics.median(part) for part in zip(*command.rounds, strict=True))
        total = statistics.median(map(sum, command.rounds))
        ratio = statistics.median(sum(a) / sum(b) for a, b in zip(command.rounds, first.rounds, strict=True))
        told = " + ".join(f"{us:.0f}" for us in each)
        busiest = statistics.median(command.busiest)
        sys.stdout.write(f"{count:>8}  {told:<32}{client:>8.0f}{total:>8.0f}{ratio:>10.2f}{busiest:>9.2f}\n")


if __name__ == "__main__":
    main()
