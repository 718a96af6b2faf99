"""Time of each command's `--help`: the best and the median of 7 calls. Run: python tests/bench/help.py"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 0.4


def help_seconds(command: Path) -> float:
    start = time.perf_counter()
    subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    names = ("pack", "loader", "trainer", "evaluate", "predict", "report")
    for name in (f"alexnet-{each}" for each in names):
        seconds = [help_seconds(Path(sys.executable).parent / name) for _ in range(7)]
        best, median = min(seconds), statistics.median(seconds)
        sys.stdout.write(f"{name} --help: best {best:.3f} s, median {median:.3f} s (limit {LIMIT_S} s)\n")


if __name__ == "__main__":
    main()
