"""The paper's figure 4: pictures with their five likeliest classes, and the training pictures that are nearest to each
in the last hidden layer, by Euclidean distance.

alexnet-evaluate RUN --views 1 --predictions val.jsonl
alexnet-evaluate RUN --features fc7 --out val.npy
alexnet-evaluate RUN --features fc7 --out train.npy --split train
python tests/bench/figure4.py DATA val.jsonl val.npy train.npy [--picture figure4.png] [--first 0]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before this folder, which has a loader.py of its own

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from common.images import jpeg
from loader.dataset import Dataset

SHOWN, NEAREST = 6, 6

Features = npt.NDArray[np.float32]


def nearest(of: Features, among: Features, count: int) -> npt.NDArray[np.int64]:
    """Rows of `among` (n x units) nearest to `of` (units), nearest first; a row that is no number is never near."""
    distances = np.nan_to_num(((among - of) ** 2).sum(axis=1), nan=np.inf)
    return np.argsort(distances, kind="stable")[:count]


def show(axes: Axes, dataset: Dataset, record: int, title: str) -> None:
    axes.imshow(jpeg.decode(dataset.read(record)[1]))
    axes.set_title(title, fontsize=7)
    axes.axis("off")


def show_answer(axes: Axes, answer: dict[str, Any], label: str) -> None:
    """The five likeliest, the right one in another colour."""
    likeliest = answer["likeliest"][::-1]
    colours = ["tab:red" if each["class"] == label else "tab:blue" for each in likeliest]
    axes.barh([each["class"] for each in likeliest], [each["probability"] for each in likeliest], color=colours)
    axes.set(xlim=(0, 1), xticks=[])
    axes.tick_params(labelsize=6)


def draw(data: Path, predictions: list[dict[str, Any]], val: Features, train: Features, picture: Path) -> None:
    figure, rows = plt.subplots(SHOWN, 2 + NEAREST, figsize=(2 + NEAREST, SHOWN * 1.15))
    with Dataset(data / "val.lmdb") as val_set, Dataset(data / "train.lmdb") as train_set:
        for row, prediction in zip(rows, predictions, strict=True):
            record, label = prediction["record"], prediction["class"]
            show(row[0], val_set, record, label)
            show_answer(row[1], prediction["views"]["1"], label)
            for axes, near in zip(row[2:], nearest(val[record], train, NEAREST), strict=True):
                show(axes, train_set, int(near), train_set.classes[train_set.read(int(near))[0]])
    figure.tight_layout(pad=0.4)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="packed data set")
    parser.add_argument("predictions", type=Path, help="of its validation set")
    parser.add_argument("val", type=Path, help="features of its validation set")
    parser.add_argument("train", type=Path, help="features of its training set")
    parser.add_argument("--picture", type=Path, default=Path("figure4.png"), help="picture to write")
    parser.add_argument("--first", type=int, default=0, help="first of the records that are shown")
    given = parser.parse_args()
    lines = given.predictions.read_text().splitlines()[given.first : given.first + SHOWN]
    val, train = (np.load(path, mmap_mode="r") for path in (given.val, given.train))
    draw(given.data, [json.loads(line) for line in lines], val, train, given.picture)


if __name__ == "__main__":
    main()
