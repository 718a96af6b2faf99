"""alexnet-predict beside alexnet-evaluate on the same images, and beside the bare forward pass.

    python tests/bench/predict.py same PHOTOS [--images 500] [--steps 150]
    python tests/bench/predict.py speed PHOTOS [--images 384] [--rounds 3] [--views 1] [--recipe source]

PHOTOS holds train/<class>/* and val/<class>/*, a folder or a tar of any compression.

same    A network of recipe `cifar10` is trained for so many steps. So many validation images, equally many of each
        class, are packed, and evaluated through a loader; the same files are predicted. Answers and probabilities of
        each image are compared, with one view and with ten. Exit code 1 if they differ by more than 1e-5.
speed   A network of full width with random weights, one thread of torch. Rounds alternate:

        predict   all of it: the network loaded, files found, read and decoded, answers written as CSV
        forward   `probabilities` alone, of the same pixels in memory

        Figures are images a minute and core, of CPU time; medians of the rounds, and of their ratios.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from click.testing import CliRunner

from common.imagenet.devkit import ORDER_SEED, shuffled
from common.images.stored import stored_pixels
from loader.packing import discover
from tests.support.packing import pack_folder
from tests.support.processes import LoaderProcess
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State
from trainer.cli.evaluate_command import main as evaluate
from trainer.cli.predict_command import main as predict
from trainer.cli.train_command import main as train
from trainer.network.one_device import OneDevice
from trainer.plain import AlexNet2012
from trainer.recipes.named import RECIPES

TRAINED_ON = 200  # images of a class
LOCAL = ["--cpu", "--threads", "1"]


def run(command: object, *arguments: object) -> None:
    result = CliRunner().invoke(command, [*map(str, arguments), *LOCAL])  # type: ignore[arg-type]
    if result.exit_code != 0:
        raise SystemExit(result.output)


def unpacked(photos: Path, folder: Path) -> Path:
    if photos.is_dir():
        return photos
    with tarfile.open(photos) as archive:
        archive.extractall(folder, filter="data")
    return folder


def some(photos: Path, tree: Path, split: str, of_each: int) -> None:
    """Copy the first images of each class."""
    for source in sorted((photos / split).iterdir()):
        (tree / split / source.name).mkdir(parents=True)
        for path in sorted(source.iterdir())[:of_each]:
            shutil.copy(path, tree / split / source.name)


def same(photos: Path, folder: Path, images: int, steps: int) -> bool:
    tree, data, net = folder / "tree", folder / "data", folder / "run"
    classes = len(list((photos / "train").iterdir()))
    some(photos, tree, "train", TRAINED_ON)
    some(photos, tree, "val", images // classes)
    pack_folder(tree, data)
    source = discover.sources(tree)["val"]
    names = [source.name(int(item)) for item in shuffled(len(source), ORDER_SEED)]
    with LoaderProcess(data, folder) as service:
        run(train, "--recipe", "cifar10", "--steps", steps, "--run", net, "--loader", service.endpoint)
        run(evaluate, net, "--predictions", folder / "theirs.jsonl", "--loader", service.endpoint)
    theirs = [json.loads(line)["views"] for line in (folder / "theirs.jsonl").read_text().splitlines()]
    agree = [compare(tree, net, folder / "ours.json", names, theirs, views) for views in ("1", "10")]
    return all(agree)


def compare(
    tree: Path, net: Path, path: Path, names: list[str], theirs: list[dict[str, dict[str, object]]], views: str
) -> bool:
    run(predict, net, tree / "val", "--views", views, "--json", path)
    found = json.loads(path.read_text())
    ours = {os.path.relpath(entry["file"], tree): entry["likeliest"] for entry in found["files"]}
    assert len(ours) == len(names) == len(theirs)
    other_answers, apart = 0, 0.0
    for name, of_record in zip(names, theirs, strict=True):
        likeliest: list[dict[str, float]] = of_record[views]["likeliest"]  # type: ignore[assignment]
        other_answers += [one["label"] for one in likeliest] != [one["label"] for one in ours[name]]
        by_label = {one["label"]: one["probability"] for one in ours[name]}
        apart = max(apart, *(abs(one["probability"] - by_label.get(one["label"], 2)) for one in likeliest))
    sys.stdout.write(
        f"{views} view(s), {len(names)} images, top-1 error {found['top1_error']:.3f}:"
        f" {other_answers} with other five likeliest; probabilities at most {apart:.1e} apart\n"
    )
    return other_answers == 0 and apart <= 1e-5


def saved_net(folder: Path, recipe_name: str) -> Path:
    recipe = RECIPES[recipe_name]
    weights = OneDevice(recipe, seed=0, device=torch.device("cpu")).gather()
    state = State(
        epoch=0, first=0, step=0, seed=0, recipe=recipe, dataset="", threads=1,
        class_names=tuple(map(str, range(recipe.classes))),
    )  # fmt: skip
    return checkpoint.save(folder, Checkpoint(state, weights, {}, torch.full((256, 256, 3), 120.0)))


def speed(photos: Path, folder: Path, images: int, rounds: int, views: int, recipe: str) -> None:
    found = [path for path in sorted(photos.rglob("*")) if path.is_file()]
    (folder / "files").mkdir()
    for number, path in enumerate(itertools.islice(itertools.cycle(found), images)):
        shutil.copy(path, folder / "files" / f"{number:06}-{path.name}")
    files = sorted((folder / "files").iterdir())
    net_file = saved_net(folder, recipe)
    stored = torch.from_numpy(np.stack([stored_pixels(path.read_bytes()) for path in files]))
    batches = [stored[first : first + 128].permute(0, 3, 1, 2) for first in range(0, images, 128)]
    net, torch_threads = AlexNet2012.from_run(net_file), torch.get_num_threads()
    rates: dict[str, list[float]] = {"predict": [], "forward": []}
    for turn in range(rounds + 1):  # the first is a warm-up
        began_s = time.process_time()
        run(predict, net_file, folder / "files", "--views", views, "--csv", folder / "out.csv")
        middle_s = time.process_time()
        with torch.inference_mode():
            for batch in batches:
                net.probabilities(batch, views)
        seconds = middle_s - began_s, time.process_time() - middle_s
        if turn:
            for of, taken_s in zip(rates.values(), seconds, strict=True):
                of.append(60 * images / taken_s)
    size = sum(path.stat().st_size for path in files) / len(files) / 1000
    write = sys.stdout.write
    write(f"{images} images of {size:.0f} kB, {views} view(s), recipe {recipe}, {torch_threads} thread of torch\n")
    for name, of in rates.items():
        write(f"  {name:8} {statistics.median(of):6.0f} images a minute and core ({min(of):.0f} to {max(of):.0f})\n")
    ratios = [ours / bare for ours, bare in zip(*rates.values(), strict=True)]
    write(f"  ratio    {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["same", "speed"])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, help="500 for same, 384 for speed")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--views", type=int, choices=[1, 10], default=1)
    parser.add_argument("--recipe", default="source")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = unpacked(given.photos, folder / "photos")
        if given.what == "same":
            sys.exit(0 if same(photos, folder, given.images or 500, given.steps) else 1)
        speed(photos, folder, given.images or 384, given.rounds, given.views, given.recipe)


if __name__ == "__main__":
    main()
