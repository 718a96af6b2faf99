"""Mutated JPEGs of real records through the worker's decoder and alexnet-pack's: no crash, no hang, one outcome each.

    python tests/bench/fuzz_jpeg.py [--data PHOTOS] [--count 100000] [--seed 0]

PHOTOS as for loader.py. First come the bombs of tests/support/bombs.py. Then each case is decoded twice by each
decoder, in each of two processes. Ends with exit code 1 if one crashes, hangs, has two outcomes or takes more than
250 ms of processor time, or if memory grows.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.errors import BadImage
from common.images import image_file
from tests.bench import photos
from tests.support import jpeg_fuzz
from tests.support.bombs import BOMBS

MOST_MS, MOST_GROWTH_MIB, RECORDS = 250, 8, 100


def ms_of_bombs() -> dict[str, float]:
    """Processor time that it takes to refuse each."""
    found = {}
    for name, made in BOMBS.items():
        bomb, started = made(), time.thread_time()
        with contextlib.suppress(BadImage):
            image_file.decode(bomb)
            sys.exit(f"fuzz_jpeg: the bomb of {name} was decoded")
        found[name] = 1000 * (time.thread_time() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bombs = ms_of_bombs()
    slowest = max(bombs, key=lambda name: bombs[name])
    sys.stdout.write(f"{len(bombs)} bombs refused, the slowest ({slowest}) in {bombs[slowest]:.0f} ms\n")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        data = photos.packed_records(given.data, Path(name), RECORDS)
        try:
            found = jpeg_fuzz.in_two_processes(data, given.seed, 0, given.count, Path(name))
        except jpeg_fuzz.Failed as failure:
            sys.exit(f"fuzz_jpeg: {failure}")
    one = found[0]
    sys.stdout.write(
        f"{one.cases:,} mutated JPEGs in {time.monotonic() - started:,.0f} s: {one.decoded:,} are good records,"
        f" {one.packed:,} good photos; two processes agree on every outcome ({one.digest})\n"
    )
    for findings in found:
        sys.stdout.write(
            f"  slowest {findings.slowest_ms:.0f} ms (case {findings.slowest_case}),"
            f" memory {findings.early_mib:.1f} MiB after a tenth, {findings.late_mib:.1f} MiB in the end\n"
        )
    flat = all(findings.late_mib - findings.early_mib < MOST_GROWTH_MIB for findings in found)
    slowest_ms = max(*bombs.values(), *(findings.slowest_ms for findings in found))
    sys.exit(0 if flat and slowest_ms < MOST_MS else 1)


if __name__ == "__main__":
    main()
