"""alexnet-evaluate beside the bare forward pass on the same images.

    python tests/bench/evaluate.py [--data PHOTOS] [--width 1] [--batches 4] [--rounds 5] [--threads 2] [--workers 2]

PHOTOS is what alexnet-pack takes; drawn images without it. A loader service serves them; a checkpoint of recipe
`source` holds random weights. Rounds alternate:

    evaluate  alexnet-evaluate's pass over so many batches of 128, from the first request to the last answer
    forward   `predict` alone on the same batches, as the network reads them, in memory

with one view and with ten, which is ten forwards. Figures are medians of the rounds, and of their ratios.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

import torch

from common.client.client import LoaderClient
from common.spec import StreamSpec
from loader.dataset import Dataset
from tests.bench import photos
from tests.support.processes import LoaderProcess
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.state import State
from trainer.evaluation.evaluate import evaluate_checkpoints
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.feeding.pixel_transform import PixelTransform
from trainer.network.net import Net
from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import RECIPES

CPU = torch.device("cpu")
BATCH = 128


def saved_net(data: Path, folder: Path, width: float) -> tuple[Path, Net, PixelTransform]:
    """A checkpoint, the same network, and its pixels."""
    with Dataset(data / "train.lmdb") as dataset:
        classes, mean_hwc = dataset.classes, dataset.mean_hwc
    recipe = replace(RECIPES["source"], classes=len(classes), width=width)
    net = TwoHalves(recipe, seed=0, devices=(CPU, CPU))
    state = State(
        epoch=0, first=0, step=0, seed=0, recipe=recipe, dataset="", class_names=classes, threads=1
    )  # fmt: skip
    path = checkpoint.save(folder, Checkpoint(state, net.gather(), {}, torch.tensor(mean_hwc)))
    return path, net, PixelTransform(mean_hwc, recipe.input_shape, recipe.test_scale, CPU)


def forward_s(net: Net, batches: list[torch.Tensor], times: int) -> float:
    """Seconds of a forward pass over the batches, so many times."""
    started_s = time.perf_counter()
    for x_nchw in batches:
        for _ in range(times):
            net.predict((x_nchw, x_nchw))
    return time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batches", type=int, default=4, help="of a round with one view; with ten it is a quarter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = photos.packed_records(given.data, folder, BATCH * given.batches)
        path, net, transform = saved_net(data, folder, given.width)
        with LoaderProcess(data, folder, given.workers) as service:
            with LoaderClient(service.endpoint) as client:
                stream = client.stream(StreamSpec("train", view="full"), BATCH)
                batches = [transform(torch.tensor(batch.images)) for batch in stream.batches([0])]
            for views in (1, 10):
                compare(
                    net,
                    path,
                    service.endpoint,
                    batches[: max(1, len(batches) // (1 if views == 1 else 4))],
                    views,
                    given,
                )


def compare(
    net: Net, path: Path, endpoint: str, batches: list[torch.Tensor], views: int, given: argparse.Namespace
) -> None:
    options = EvaluateOptions(
        checkpoints=(path,), split="train", views=str(views), limit=BATCH * len(batches), confused=0, cpu=True,
        threads=given.threads, loaders=(endpoint,), batch_size=BATCH,
    )  # fmt: skip
    images, seconds = BATCH * len(batches), []
    for turn in range(given.rounds + 1):  # the first is a warm-up
        both = evaluate_checkpoints(options).seconds, forward_s(net, batches, views)
        seconds += [both] if turn else []
    rates = [[images / of[which] for of in seconds] for which in (0, 1)]
    ratios = [evaluate / forward for evaluate, forward in zip(*rates, strict=True)]
    sys.stdout.write(f"{views} view{'s' if views > 1 else ''}, {images} pictures, {given.rounds} rounds\n")
    for name, of in zip(("evaluate", "forward"), rates, strict=True):
        sys.stdout.write(f"  {name:8s} {statistics.median(of):7.1f} images/s ({min(of):.1f} to {max(of):.1f})\n")
    sys.stdout.write(f"  ratio    {statistics.median(ratios):7.3f} ({min(ratios):.3f} to {max(ratios):.3f})\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
