"""Speed of R ranks beside one, computed from a step's time and the link between ranks: no rank is started.

    python tests/bench/links.py
    python tests/bench/links.py --link-gbit 10 25 --images 256 --step-ms 5.8 --gradient-bytes 2

A rank sends and receives 2 (R - 1) / R of its gradients a step. They leave while the convolutions' backward pass, which
ends the step, still computes; what takes longer is waited for.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

WEIGHTS = 60_965_224  # of the paper's net, 1,000 classes
USABLE = 0.9  # of the link's bits
HIDES = 0.61  # of a step: 2/3 of the convolutions' 666 of 725 million multiplications an image
RANKS = (2, 8)
LINKS_GBIT = (10.0, 25.0, 100.0, 400.0)


@dataclass(frozen=True)
class Rank:
    """One rank's step, alone."""

    name: str
    images: int
    step_ms: float
    gradient_bytes: int  # of a weight's gradient on the wire

    def speed(self, ranks: int, link_gbit: float) -> float:
        """Images/s of `ranks`, beside this one's."""
        sent_bits = 8 * 2 * (ranks - 1) / ranks * WEIGHTS * self.gradient_bytes
        exposed_ms = max(0.0, sent_bits / (link_gbit * 1e6 * USABLE) - HIDES * self.step_ms)
        return ranks * self.step_ms / (self.step_ms + exposed_ms)


MEASURED = (
    Rank("H200, bf16", 128, 3.33, 2),
    Rank("H200, bf16", 512, 9.45, 2),
    Rank("H200, tf32", 512, 19.06, 4),
    Rank("two cores, fp32", 32, 457.0, 4),
)  # README.md: the table of steps on a GPU; 70 images/s on Zen 5


def table(measured: Sequence[Rank] = MEASURED, links_gbit: Sequence[float] = LINKS_GBIT) -> str:
    """The table of deploy/README.md."""
    lines = [f"| a rank | images | ranks | {' | '.join(f'{link:g} Gbit/s' for link in links_gbit)} |"]
    lines.append("|---|---|---|" + "---|" * len(links_gbit))
    for each in measured:
        for ranks in RANKS:
            speeds = " | ".join(f"{each.speed(ranks, link):.1f}" for link in links_gbit)
            lines.append(f"| {each.name} | {each.images} | {ranks} | {speeds} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link-gbit", type=float, nargs="+", default=LINKS_GBIT)
    parser.add_argument("--images", type=int, help="of a rank's share of a batch")
    parser.add_argument("--step-ms", type=float)
    parser.add_argument("--gradient-bytes", type=int, default=4)
    asked = parser.parse_args()
    if (asked.images is None) != (asked.step_ms is None):
        parser.error("--images and --step-ms go together")
    measured: Sequence[Rank] = MEASURED
    if asked.step_ms is not None:
        measured = (Rank("yours", asked.images, asked.step_ms, asked.gradient_bytes),)
    sys.stdout.write(table(measured, asked.link_gbit))


if __name__ == "__main__":
    main()
