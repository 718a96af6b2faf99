"""`alexnet-evaluate`: errors, predictions and features of trained networks, on what alexnet-loader serves."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import evaluate

    evaluate()
    raise SystemExit

from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.command_line import HELP
from common.cli.console import result, say, tell
from common.cli.entry import interruptible
from common.cli.outputs import STDOUT
from common.errors import AlexNetError, ReaderGone
from trainer.cli.shared_options import device_options, loader_options
from trainer.evaluation.evaluate_options import VIEW_COUNTS, EvaluateOptions

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True} | HELP)
@click.version_option(package_name="alexnet")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=_FILE)
@click.option("--split", type=click.Choice(["train", "val"]), default="val", help="Which pictures.")
@click.option(
    "--views",
    type=click.Choice(list(VIEW_COUNTS)),
    default="both",
    help="The centre; or corners, centre and their mirror images, probabilities averaged; or both side by side.",
)
@click.option("--weights", help="Of each checkpoint in the average, such as 1,1,2.", show_default="all the same")
@click.option(
    "--limit", type=click.IntRange(1), help="So many pictures, any, for a trial: the first of epoch 0's order."
)
@click.option("--confused", type=click.IntRange(0), default=5, help="How many pairs of confused classes are shown.")
@click.option("--json", type=_FILE, help="Write the figures there as a JSON object; - prints it instead of the table.")
@click.option("--predictions", type=_FILE, help="Write there, a JSON object a line, the five likeliest of each record.")
@click.option(
    "--ilsvrc",
    type=_FILE,
    help="Write there what ILSVRC2012 takes: the ids of the five likeliest classes of each validation picture, a line"
    " each, in their order. Needs --devkit, and a data set packed from the ILSVRC2012 archives.",
)
@click.option("--devkit", type=_FILE, help="ILSVRC2012_devkit_t12.tar.gz, for --ilsvrc; or the folder that holds it.")
@click.option(
    "--skipped", type=_FILE, help="DATA/skipped.jsonl, for --ilsvrc, if alexnet-pack left validation pictures out."
)
@click.option(
    "--features", metavar="LAYER", help="Write what fc6 or fc7 makes of each centre view instead, of any data set."
)
@click.option(
    "--out", type=_FILE, help="FILE.npy for --features: n x units; FILE.labels.npy, FILE.records.npy beside it."
)
@device_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    show_default="tf32 on GPUs, fp32 on a CPU",
    help="What layers compute with.",
)
@loader_options
@click.option("--batch-size", type=click.IntRange(1), default=128, help="Pictures at a time.")
@click.option("--verbose", is_flag=True, help="Log more.")
def main(verbose: bool, **options: Any) -> None:
    """Evaluate checkpoints of alexnet-trainer on the pictures of alexnet-loader.

    Files appear whole at the end. FIFOs and devices are written to, and - is stdout: the table then goes to stderr.

    CHECKPOINT is a file, or a run's folder: its best checkpoint, else its newest. Several are evaluated each by itself
    and all together, their probabilities averaged.
    """
    logs.setup("alexnet-evaluate", verbose)
    with logs.errors_as_exit_codes("alexnet-evaluate"):
        asked = EvaluateOptions(**options)
        from trainer.evaluation.evaluate import evaluate_checkpoints, features_of

        interruptible()
        if asked.features is not None or asked.out is not None:
            say(features_of(asked).text())
            return
        report = evaluate_checkpoints(asked)
        if not asked.fills_stdout:
            result(report.text())
        elif asked.json != STDOUT:
            tell(report.text())
        if reasons := [str(error) for error in report.unwritten if not isinstance(error, ReaderGone)]:
            raise AlexNetError("; ".join(reasons))
        if report.unwritten:
            raise report.unwritten[0]
