"""`alexnet-trainer`: trains AlexNet on what alexnet-loader serves."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import trainer

    trainer()
    raise SystemExit

import sys
from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.command_line import HELP
from common.cli.console import result, say
from common.cli.entry import interruptible
from trainer.cli.shared_options import complete_recipe, device_options, loader_options
from trainer.recipes.ablations import ABLATIONS
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe
from trainer.recipes.recipe_file import to_toml
from trainer.training.train_options import Options, recipe_of


@click.command(context_settings={"show_default": True} | HELP)
@click.version_option(package_name="alexnet")
@device_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    show_default="tf32 on GPUs, fp32 on a CPU; on a resume the run's own",
    help="What layers compute with; weights and their update are fp32.",
)
@click.option(
    "--profile", type=click.IntRange(1), help="Profile so many steps after the 10th: a table, and RUN/trace.json."
)
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, help="Record a step once, then replay it, on GPUs.")
@click.option(
    "--exchange",
    type=click.Choice(["auto", "direct", "host"]),
    default="auto",
    help="How activations cross: from GPU to GPU, by way of the host's memory, or the faster, tried at the start.",
)
@loader_options
@click.option(
    "--recipe",
    metavar=f"[{'|'.join(RECIPES)}|FILE.toml]",
    shell_complete=complete_recipe,
    show_default="source",
    help="The net and its training, by name or from a file.",
)
@click.option(
    "--ablate",
    type=click.Choice(sorted(ABLATIONS)),
    multiple=True,
    help="Change the recipe as the paper did to compare; may be repeated.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe with all that changes it, as TOML, and end.")
@click.option("--width", type=click.FloatRange(0, 4, min_open=True), help="Share of AlexNet's channels and units.")
@click.option(
    "--epochs", type=click.IntRange(1), help="Epochs of the whole run; the recipe's own schedule is stretched to them."
)
@click.option("--steps", type=click.IntRange(1), help="Stop once the run has done so many steps, for a trial.")
@click.option("--batch-size", type=click.IntRange(1), show_default="the recipe's", help="Pictures a step.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), show_default="0", help="Of weights, order, crops, dropout.")
@click.option(
    "--lr",
    "rate",
    type=click.FloatRange(0, min_open=True),
    help="First learning rate, and with --resume the one from here on; later ones go along in proportion. Given again"
    " on a further resume, it changes nothing more.",
)
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), show_default="runs/RECIPE-TIME", help="Folder of the run."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --run that is whole.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Begin with the weights of a checkpoint, or of a run's best, that fit; its recipe, if --recipe names none.",
)
@click.option("--checkpoint-minutes", type=click.FloatRange(0), default=10.0, help="Minutes between checkpoints.")
@click.option("--keep", type=click.IntRange(1), default=3, help="Checkpoints kept: the newest so many, and the best.")
@click.option("--log-steps", type=click.IntRange(1), default=10, help="Steps between two lines of metrics.jsonl.")
@click.option("--tensorboard", is_flag=True, help="Write events for TensorBoard too: its --logdir is the run's folder.")
@click.option(
    "--on-bad-record",
    type=click.Choice(["replace", "stop"]),
    show_default="replace",
    help="A record that is no picture: take the next of the epoch's order in its place, or end the run.",
)
@click.option(
    "--digest",
    "digests",
    type=click.Choice(["off", "on", "verify"]),
    show_default="off",
    help="Digest of each epoch's pixels in metrics.jsonl, for alexnet-loader audit; verify: also check what arrives.",
)
@click.option("--verbose", is_flag=True, help="Log more.")
def main(verbose: bool, show_recipe: bool, **options: Any) -> None:
    """Train AlexNet, a half on each GPU, with batches from alexnet-loader.

    Checkpoints and metrics.jsonl go to the run folder. Ctrl-C, SIGTERM, SIGUSR1, or SIGHUP unless it is ignored as
    under nohup, ends the step, saves and stops with exit code 128 + the signal's number; --resume goes on from there.
    A second Ctrl-C or SIGTERM stops at once.
    """
    logs.setup("alexnet-trainer", verbose)
    with logs.errors_as_exit_codes("alexnet-trainer"):
        if show_recipe:
            result(to_toml(_recipe(Options(**options))).removesuffix("\n"))
            return
        from trainer.training.launch import last_line, run

        interruptible()
        outcome = run(Options(**options))
        say(last_line(outcome))
        if outcome.stopped_by is not None:
            sys.exit(128 + outcome.stopped_by)


def _recipe(options: Options) -> Recipe:
    if not options.resume and options.init is None:
        return recipe_of(options).recipe
    from trainer.training.start import start_of  # reads a checkpoint

    return start_of(options).derived.recipe
