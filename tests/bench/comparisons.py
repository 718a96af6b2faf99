"""The paper's comparisons on a dataset that a CPU can learn in minutes: trains them all, each in a run of its own, and
ends with a table of them.

python tests/bench/comparisons.py DATA OUT                     # all, seed 0; what is there already is not trained again
python tests/bench/comparisons.py DATA OUT --seeds 0 1 2 --only whole tanh

Every run is `alexnet-trainer --cpu --recipe OUT/NAME.toml`, with one thread; as many are trained side by side as there
are cores. The recipe is cifar10 with one thing changed, by `--ablate`'s names. bare-relu and bare-tanh are for the
paper's figure 1: no dropout, noise or weight decay, and one learning rate throughout.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from tests.support.processes import LoaderProcess
from trainer.recipes.ablations import ABLATIONS, ablated
from trainer.recipes.named import CIFAR10
from trainer.recipes.recipe import Phase, Recipe
from trainer.recipes.recipe_file import to_toml
from trainer.training import metrics

FIGURE_1_RATES = (0.003, 0.005, 0.01, 0.02)
LAST = "trained"  # a file beside a run's checkpoints that says it is done
IN_THE_PAPER = {  # points of top-1 error on ImageNet against the whole net, in the paper or its program's logs
    "no-norm": "+1.4",
    "pool-2x2": "+0.4",
    "one-column": "+1.7",
    "separate-halves": "+1.2",
    "no-conv4": "about +2",
    "half-exchange": "none",
}


def bare(activation: str, rate: float) -> Recipe:
    """For figure 1: no regularisation, one rate, nearly even first answers."""
    recipe = ablated(CIFAR10, [*(["tanh"] if activation == "tanh" else []), "no-dropout", "no-noise"])
    recipe = recipe.with_layer("fc8", weight_std=0.01)
    return replace(recipe, name=f"bare-{activation}-{rate}", weight_decay=0.0, phase=(Phase(0, rate, sigma=0.0),))


def comparisons(epochs: int) -> dict[str, Recipe]:
    """By name; "whole" is the net that the others are compared with."""
    recipes = {"whole": CIFAR10} | {name: ablated(CIFAR10, [name]) for name in ABLATIONS}
    bares = [bare(activation, rate) for activation in ("relu", "tanh") for rate in FIGURE_1_RATES]
    recipes |= {recipe.name: recipe for recipe in bares}
    return {name: recipe.stretched(epochs) for name, recipe in recipes.items()}


def command(recipe: Path, seed: int, run: Path, endpoint: str) -> list[str]:
    begin = ["--resume"] if any(run.glob("checkpoint-*")) else ["--recipe", str(recipe), "--seed", str(seed)]
    trainer = [sys.executable, "-m", "trainer.cli.train_command", "--cpu", "--threads", "1", "--log-steps", "50"]
    return [*trainer, "--loader", endpoint, "--run", str(run), *begin]


def train(out: Path, name: str, recipe: Recipe, seed: int, endpoint: str) -> None:
    run, toml = out / f"{name}-{seed}", out / f"{name}.toml"
    toml.write_text(to_toml(recipe))
    run.mkdir(exist_ok=True)
    with (run / "trainer.log").open("ab") as log:
        subprocess.run(command(toml, seed, run, endpoint), check=True, stdout=log, stderr=log)
    (run / LAST).touch()
    sys.stdout.write(f"{run.name}: {(run / 'trainer.log').read_text().splitlines()[-1]}\n")
    sys.stdout.flush()


def wanted(names: list[str], seeds: list[int], out: Path) -> Iterator[tuple[str, int]]:
    for seed in seeds:
        for name in names:
            if not (out / f"{name}-{seed}" / LAST).exists():
                yield name, seed


def errors_of(out: Path, name: str) -> list[float]:
    """Validation top-1 error in percent at the end of each seed's run, centre view."""
    found = []
    for run in sorted(out.glob(f"{name}-[0-9]")):
        epochs = [line for line in metrics.read(run / metrics.FILE_NAME) if line["kind"] == "epoch"]
        if (run / LAST).exists():
            found.append(100 * epochs[-1]["val_top1_error"])
    return found


def table(out: Path) -> Iterator[str]:
    """Lines of Markdown."""
    whole = errors_of(out, "whole")
    yield "| | top-1 error, % | seeds | against the whole net | in the paper, on ImageNet |"
    yield "|---|---|---|---|---|"
    for name in ("whole", *ABLATIONS):
        if errors := errors_of(out, name):
            spread = f" ({min(errors):.1f} to {max(errors):.1f})" if len(errors) > 1 else ""
            more = statistics.mean(errors) - statistics.mean(whole or errors)
            against = f"{more:+z.1f}" if whole and name != "whole" else ""
            mean = f"{statistics.mean(errors):.1f}{spread}"
            yield f"| {name} | {mean} | {len(errors)} | {against} | {IN_THE_PAPER.get(name, '')} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="packed data set")
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(comparisons(1)), default=["whole", *ABLATIONS])
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--epochs", type=int, default=CIFAR10.epochs, help="of every run")
    given = parser.parse_args()
    recipes = comparisons(given.epochs)
    given.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        LoaderProcess(given.data, Path(folder), workers=2) as loader,
        ThreadPoolExecutor(given.at_once) as pool,
    ):
        todo = wanted(given.only, given.seeds, given.out)
        for done in [pool.submit(train, given.out, name, recipes[name], seed, loader.endpoint) for name, seed in todo]:
            done.result()
    sys.stdout.write("\n".join(table(given.out)) + "\n")


if __name__ == "__main__":
    main()
