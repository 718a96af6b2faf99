"""Draws the figures of loader.py as bars: images a second as a multiple of bare decoding.

python tests/bench/bars.py FILE [--out tests/bench/loader.svg]

FILE is what `loader.py --json FILE` wrote. Bars are medians over the rounds, lines reach from lowest to highest. The
image has no background, and greys that can be read on light and dark ones.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

OURS, OTHERS, LIMIT, TEXT = "#3a86d8", "#9aa0a6", "#d9822b", "#808488"
LABELS = {
    "limit": "bare decoding: libjpeg-turbo alone",
    "slab": "alexnet-loader, shared memory",
    "frames": "alexnet-loader, tcp",
    "curve": "alexnet-loader, tcp, encrypted",
    "first-epoch": "alexnet-loader, first epoch",
    "keeping": "alexnet-loader, first epoch, whose images are kept",
    "kept": "alexnet-loader, images kept decoded",
    "half-kept": "alexnet-loader, half of the images kept",
    "kept-frames": "alexnet-loader, images kept, tcp",
    "two": "alexnet-loader, two clients of one order",
    "five": "alexnet-loader, five clients of one order",
    "torch": "torch DataLoader",
}
LEFT_OUT = ("owned", "many")  # they are in the table


def draw(file: Path, out: Path) -> None:
    """Bars of all rows but LEFT_OUT, longest on top."""
    rows = json.loads(file.read_text())["rows"]
    shares = {name: row["of_limit"] for name, row in rows.items() if name not in LEFT_OUT}
    names = sorted(shares, key=lambda name: statistics.median(shares[name]))
    medians = [statistics.median(shares[name]) for name in names]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bars", "text.color": TEXT, "font.size": 9})
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.27 * len(names)))
    colours = [LIMIT if name == "limit" else OURS if name in LABELS and name != "torch" else OTHERS for name in names]
    axes.barh([LABELS.get(name, name) for name in names], medians, color=colours, height=0.7)
    for place, (name, median) in enumerate(zip(names, medians, strict=True)):
        lowest, highest = min(shares[name]), max(shares[name])
        axes.plot([lowest, highest], [place, place], color=TEXT, linewidth=1)
        axes.annotate(f"{median:.2f}", (highest, place), (4, 0), textcoords="offset points", va="center")
    axes.axvline(1.0, color=LIMIT, linewidth=0.8, linestyle="--")
    axes.set(xlabel="images a second, bare decoding = 1", xlim=(0, 1.08 * max(map(max, shares.values()))))
    axes.xaxis.label.set_color(TEXT)
    axes.tick_params(colors=TEXT, length=0)
    axes.spines[:].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, transparent=True, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="figures, as loader.py --json writes them")
    parser.add_argument("--out", type=Path, default=Path("loader.svg"), help="picture to write")
    given = parser.parse_args()
    draw(given.file, given.out)


if __name__ == "__main__":
    main()
