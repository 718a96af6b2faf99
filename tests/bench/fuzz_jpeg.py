"""Mutated JPEGs of real records through the worker's decoder and alexnet-pack's: no crash, no hang, one outcome each.

    python tests/bench/fuzz_jpeg.py [--data PHOTOS] [--count 100000] [--seed 0]

PHOTOS as for loader.py. Each case is decoded twice by each decoder, in each of two processes. Ends with exit code 1
where a case crashes, hangs, has two outcomes, or takes more than 250 ms of processor time, or where memory grows.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import jpeg_fuzz
from tests.bench import photos

MOST_MS, MOST_GROWTH_MIB, RECORDS = 250, 8, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
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
    sys.exit(0 if flat and min(findings.slowest_ms for findings in found) < MOST_MS else 1)


if __name__ == "__main__":
    main()
