"""`alexnet-trainer`."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import trainer

    trainer()
    raise SystemExit

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.console import result, say
from common.cli.entry import interruptible
from common.cli.options import command, section
from trainer.cli.shared_options import complete_recipe, data, device_options, devices, fields_of, loader_options
from trainer.ranks.place import die_with_launcher, is_rank, is_told_by_launcher, rank
from trainer.recipes.ablations import ABLATIONS
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe
from trainer.recipes.recipe_file import to_toml
from trainer.training.rank_options import refuse_impossible
from trainer.training.run_folder import run_folder
from trainer.training.train_options import DEFAULT_RECIPE, TrainOptions, recipe_of

_PROGRAM = "alexnet-trainer"
_training, _ranks = section("Training"), section("Ranks")
_output, _looking = section("Output"), section("Inspection")
_path = click.Path(path_type=Path)


@command(_PROGRAM)
@device_options
@devices(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    show_default="tf32 on GPUs, fp32 on a CPU; on a resume the run's own",
    help="Precision of the layers; weights and their update are fp32.",
)
@devices(
    "--exchange",
    type=click.Choice(["auto", "direct", "host"]),
    default=TrainOptions.exchange,
    help="Activation transfer: direct (peer to peer), host (through pinned memory), or auto (benchmark both).",
)
@devices(
    "--cuda-graphs/--no-cuda-graphs",
    default=TrainOptions.cuda_graphs,
    help="Record a step once and replay it, on GPUs.",
)
@_training(
    "--recipe",
    metavar=f"[{'|'.join(RECIPES)}|FILE.toml]",
    shell_complete=complete_recipe,
    show_default=DEFAULT_RECIPE,
    help="Network and schedule, by name or from a file.",
)
@_training(
    "--epochs",
    type=click.IntRange(1),
    show_default="the recipe's",
    help="Epochs of the whole run; the recipe's own schedule is stretched to them.",
)
@_training(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    show_default="the recipe's",
    help="Initial learning rate or, with --resume, the rate from here on; later rates scale with it. Given again on a"
    " further resume, it changes nothing more.",
)
@_training("--batch-size", type=click.IntRange(1), show_default="the recipe's", help="Images per step.")
@_training(
    "--seed", type=click.IntRange(0, 2**63 - 1), show_default="0", help="Seed of initial weights, dropout and data."
)
@_training(
    "--data-seed",
    type=click.IntRange(0, 2**63 - 1),
    show_default="--seed",
    help="Seed of the data alone: order, crops, flips and colour noise. Runs that share it share the loader's work.",
)
@_training(
    "--width",
    type=click.FloatRange(0, 4, min_open=True),
    show_default="the recipe's",
    help="Share of AlexNet's channels and units.",
)
@_training(
    "--ablate",
    type=click.Choice(sorted(ABLATIONS)),
    multiple=True,
    help="Change the recipe as the paper did for comparison; repeatable.",
)
@_training(
    "--init",
    type=_path,
    help="Initialise from a checkpoint or a run's best; tensors that do not fit are re-initialised. Its recipe is used"
    " unless --recipe is given.",
)
@_training("--steps", type=click.IntRange(1), help="Stop after this many steps of the run, for a trial.")
@loader_options
@data(
    "--on-bad-record",
    type=click.Choice(["replace", "stop"]),
    show_default="replace",
    help="On a corrupt record: take the next one of the epoch's order, or end the run.",
)
@data(
    "--digest",
    type=click.Choice(["off", "on", "verify"]),
    show_default="off",
    help="Digest of each epoch's pixels in metrics.jsonl, for alexnet-loader audit; verify also checks what arrives.",
)
@_ranks("--ranks", type=click.IntRange(1), default=TrainOptions.ranks, help="Processes that train together, a node.")
@_ranks(
    "--nodes",
    type=click.IntRange(1),
    default=TrainOptions.nodes,
    help="Machines; each is given the same command, and --run on a shared disk.",
)
@_ranks("--rendezvous", metavar="HOST:PORT", help="Meeting point of the nodes: any free port of one of them.")
@_ranks("--run-id", show_default="alexnet", help="Name of this start, the same on all nodes.")
@_ranks(
    "--gpus-per-rank",
    type=click.IntRange(1, 2),
    show_default="2 if there are as many, else 1",
    help="GPUs of a rank: rank 1 of a node takes those after rank 0's.",
)
@_ranks(
    "--parts",
    type=click.IntRange(1),
    show_default="all ranks; on a resume the run's own",
    help="Parts a batch is computed in, a power of two: bits are the same for every number of ranks that divides it.",
)
@_ranks(
    "--reduce",
    type=click.Choice(["ordered", "fast"]),
    default=TrainOptions.reduce,
    help="Sum of gradients: in one order, or as the library prefers, whose bits depend on the ranks.",
)
@_ranks(
    "--rank-timeout",
    type=click.FloatRange(1),
    default=TrainOptions.rank_timeout_s,
    help="Seconds without a rank's answer before all restart.",
)
@_ranks("--restarts", type=click.IntRange(0), default=TrainOptions.restarts, help="Restarts after a rank is lost.")
@_output("--run", type=_path, show_default="runs/RECIPE-TIME", help="Folder of the run.")
@_output("--resume", is_flag=True, help="Resume from the newest valid checkpoint in --run.")
@_output("--resume-if-begun", is_flag=True, help="Resume if --run holds a checkpoint; else begin.")
@_output(
    "--checkpoint-minutes",
    type=click.FloatRange(0),
    default=TrainOptions.checkpoint_minutes,
    help="Minutes between checkpoints.",
)
@_output(
    "--keep",
    type=click.IntRange(1),
    default=TrainOptions.keep,
    help="Recent checkpoints to keep; the best is always kept.",
)
@_output("--log-steps", type=click.IntRange(1), default=TrainOptions.log_steps, help="Steps per line of metrics.jsonl.")
@_output("--tensorboard", is_flag=True, help="Write TensorBoard events too; its --logdir is the run's folder.")
@_looking("--show-recipe", is_flag=True, help="Print the effective recipe as TOML and exit.")
@_looking("--profile", type=click.IntRange(1), help="Profile this many steps, after 10: a table, and RUN/trace.json.")
def main(log_level: str, show_recipe: bool, **options: Any) -> None:
    """Train AlexNet, a half on each GPU, with batches from alexnet-loader.

    Checkpoints and metrics.jsonl go to the run's folder. Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP (unless ignored, as under
    nohup) finish the step, save, and stop with exit code 128 + the signal's number; --resume continues from there. A
    second Ctrl-C or SIGTERM stops at once.
    """
    _set_up_logs(log_level)
    with logs.errors_as_exit_codes(_PROGRAM, is_told_by_launcher):
        asked = TrainOptions(**fields_of(options))
        refuse_impossible(asked)
        if show_recipe:
            result(to_toml(_recipe(asked)).removesuffix("\n"))
            return
        if asked.all_ranks > 1 and not is_rank():
            sys.exit(_launch(asked))
        die_with_launcher()
        from trainer.training.launch import run
        from trainer.training.outcome import last_line

        interruptible()
        outcome = run(asked)
        if rank() == 0:
            say(last_line(outcome))
        if outcome.stopped_by is not None:
            sys.exit(128 + outcome.stopped_by)


def _set_up_logs(level: str) -> None:
    """Show warnings alone of ranks but the first."""
    if rank() == 0:
        logs.setup(_PROGRAM, level)
    else:
        logs.setup(f"{_PROGRAM}[{rank()}]", "warning" if level == "info" else level)


def _launch(asked: TrainOptions) -> int:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch prints C++ stacks when a store dies
    from trainer.ranks.launcher import Launch, launch

    folder = asked.folder or run_folder(None, _recipe(asked).name)  # one, for all ranks and restarts
    command = [sys.executable, "-P", "-m", __spec__.name, *sys.argv[1:]]  # -P: modules may lie where it is called
    if asked.folder is None:
        command += ["--run", str(folder)]
    try:
        return launch(
            command, Launch(asked.ranks, asked.nodes, asked.rendezvous, asked.run_id or "alexnet", asked.restarts)
        )
    finally:
        if asked.folder is None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing came of it


def _recipe(options: TrainOptions) -> Recipe:
    if not options.resume and not options.resume_if_begun and options.init is None:
        return recipe_of(options).recipe
    from trainer.training.start import start_of  # reads a checkpoint

    return start_of(options).derived.recipe
