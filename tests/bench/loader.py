"""The loader beside the speed of the JPEG decoder and beside other loaders, in one run.

    python tests/bench/loader.py [--data PHOTOS] [--rows limit,slab,kept] [--rounds 5] [--seconds 2] [--json FILE]

PHOTOS is what alexnet-pack takes: train/<class>/*, or a .tar of it; generated images without it. All read the same
10,000 records of 256x256, quality 90, and deliver batches of 128 x 227 x 227 x 3 bytes, cropped, flipped and coloured,
to one process. Rounds of all rows alternate; figures are medians, with the lowest and highest. Shares of the limit are
of that measured just before and after the row, for a machine's speed may jump.

    limit         libjpeg-turbo alone, as many processes as workers
    slab          this loader, pixels through shared memory, lent as to its own trainer: batches(lend=True)
    owned         the same, each batch copied into memory of its own, as batches() gives it
    frames        this loader, pixels over tcp on loopback
    curve         the same, encrypted
    many          this loader by slab, with eight times the workers
    scraped       by slab, with --metrics, scraped 5 times a second; at the end an epoch is counted
    first-epoch   by slab, a service's first epoch from HELLO to its end, nothing kept
    keeping       the same, while decoded images are kept (--decoded-gib)
    kept          later epochs, every image kept
    half-kept     later epochs, half of the images kept
    kept-frames   later epochs over tcp, every image kept
    two, five     so many clients that read one order by slab, together
    torch         a torch DataLoader: LMDB, PyTurboJPEG, the same augmentation in numpy

and the loaders of others.py, if they are installed. bars.py draws FILE.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from tests.bench import contenders, others, photos
from tests.bench.services import BATCH, FirstEpoch, Ours, Scraped, Setting, Sharing


class Row(Protocol):
    """One way to get batches, started and ready."""

    def run(self, seconds: float) -> float:
        """Images a second."""


class Limit:
    """Bare decoding."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def run(self, seconds: float) -> float:
        return contenders.bare_decoding(self._setting.data, self._setting.workers, seconds)


class Torch:
    """A torch DataLoader."""

    def __init__(self, setting: Setting) -> None:
        self._sizes = contenders.torch_batches(setting.data, setting.workers, BATCH)

    def run(self, seconds: float) -> float:
        return contenders.counted(self._sizes, seconds)[1]


ROWS: dict[str, Callable[[Setting], Row]] = {
    "limit": Limit,
    "slab": lambda setting: Ours(setting, "slab", lend=True),
    "owned": lambda setting: Ours(setting, "slab"),
    "frames": lambda setting: Ours(setting, "frames"),
    "curve": lambda setting: Ours(setting, "frames", encrypted=True),
    "many": lambda setting: Ours(setting, "slab", lend=True, workers=8 * setting.workers),
    "scraped": Scraped,
    "first-epoch": partial(FirstEpoch, keep=False),
    "keeping": partial(FirstEpoch, keep=True),
    "kept": lambda setting: Ours(setting, "slab", lend=True, decoded_gib=setting.decoded_gib, epochs=1),
    "half-kept": lambda setting: Ours(setting, "slab", lend=True, decoded_gib=setting.decoded_gib / 2, epochs=1),
    "kept-frames": lambda setting: Ours(setting, "frames", decoded_gib=setting.decoded_gib, epochs=1),
    "two": partial(Sharing, clients=2),
    "five": partial(Sharing, clients=5),
    "torch": Torch,
}


def rows_of(names: list[str], setting: Setting) -> dict[str, Row]:
    """The rows that can be measured, of those named."""
    rows: dict[str, Row] = {}
    for name in names:
        if name in ROWS:
            rows[name] = ROWS[name](setting)
        elif others.is_installed(name):
            other = others.started(name, setting)
            if other.works():
                rows[name] = other
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="", help="names, with commas between; all that can be had if not given")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    known = [*ROWS, *others.OTHERS]
    names = given.rows.split(",") if given.rows else known
    if unknown := set(names) - set(known):
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if "limit" not in names:
        names = ["limit", *names]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = photos.packed_records(given.data, Path(folder), given.records)
        rows = rows_of(names, Setting(data, Path(folder), given.records, given.workers, stack))
        rates, limits = measure(rows, given.rounds, given.seconds)
        report(rates, limits, [name for name in names if name not in rows])
        for name, row in rows.items():
            if isinstance(row, Ours):
                sys.stdout.write(f"{name}: {row.told()}\n")
        if given.json:
            setting = {name: getattr(given, name) for name in ("workers", "records", "seconds", "rounds")}
            figures = {name: figures_of(rates[name], limits[name], row) for name, row in rows.items()}
            given.json.write_text(json.dumps({"setting": setting, "rows": figures}, indent=1) + "\n")


Rates = dict[str, list[float]]  # images a second of each row in each round


def measure(rows: dict[str, Row], rounds: int, seconds: float) -> tuple[Rates, Rates]:
    """The rates, and the limit beside each."""
    rates: Rates = {name: [] for name in rows}
    limits: Rates = {name: [] for name in rows}
    for number in range(rounds):
        before = rows["limit"].run(seconds / 2)
        for name, row in rows.items():
            rate = row.run(seconds)
            after = rows["limit"].run(seconds / 2)
            rates[name].append(rate)
            limits[name].append((before + after) / 2)
            before = after
        done = ", ".join(f"{name} {of[-1]:.0f}" for name, of in rates.items())
        sys.stdout.write(f"round {number + 1}: {done}\n")
        sys.stdout.flush()
    return rates, limits


def shares(of: list[float], others: list[float]) -> list[float]:
    return [rate / other for rate, other in zip(of, others, strict=True)]


def figures_of(of: list[float], limits: list[float], row: Row) -> dict[str, object]:
    return {"images_s": of, "of_limit": shares(of, limits), "cpu_us": row.cpu_us if isinstance(row, Ours) else None}


def report(rates: Rates, limits: Rates, missing: list[str]) -> None:
    sys.stdout.write(f"{'':14}{'images/s':>10}  {'lowest..highest':<18}{'of limit':>9}  {'':<14}{'of torch':>8}\n")
    for name, of in rates.items():
        of_limit = shares(of, limits[name])
        of_torch = f"{statistics.median(shares(of, rates['torch'])):>8.2f}" if "torch" in rates else ""
        spread, share_spread = f"{min(of):.0f}..{max(of):.0f}", f"{min(of_limit):.2f}..{max(of_limit):.2f}"
        rate, share = statistics.median(of), statistics.median(of_limit)
        sys.stdout.write(f"{name:14}{rate:>10.0f}  {spread:<18}{share:>9.2f}  {share_spread:<14}{of_torch}\n")
    if missing:
        sys.stdout.write(f"not installed, or failed above: {', '.join(missing)}\n")


if __name__ == "__main__":
    main()
