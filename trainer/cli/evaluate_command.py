"""`alexnet-evaluate`."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import evaluate

    evaluate()
    raise SystemExit

from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.console import result, say, tell
from common.cli.entry import interruptible
from common.cli.options import command, section
from common.cli.outputs import STDOUT
from common.errors import AlexNetError, ReaderGone
from trainer.cli.shared_options import data, device_options, devices, fields_of, loader_options
from trainer.evaluation.evaluate_options import VIEW_COUNTS, EvaluateOptions

_PROGRAM = "alexnet-evaluate"
_evaluation, _output = section("Evaluation"), section("Output")
_file = click.Path(path_type=Path)


@command(_PROGRAM)
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=_file)
@_evaluation("--split", type=click.Choice(["train", "val"]), default=EvaluateOptions.split, help="Images to evaluate.")
@_evaluation(
    "--views",
    type=click.Choice(list(VIEW_COUNTS)),
    default=EvaluateOptions.views,
    help="The centre; or corners, centre and their mirror images, probabilities averaged; or both, side by side.",
)
@_evaluation("--weights", show_default="all equal", help="Weight of each checkpoint in the average, such as 1,1,2.")
@_evaluation("--limit", type=click.IntRange(1), help="Evaluate only this many images: the first of epoch 0's order.")
@device_options
@devices(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    show_default="tf32 on GPUs, fp32 on a CPU",
    help="Precision of the layers.",
)
@loader_options
@data("--batch-size", type=click.IntRange(1), default=EvaluateOptions.batch_size, help="Images per batch.")
@_output(
    "--confused", type=click.IntRange(0), default=EvaluateOptions.confused, help="Pairs of confused classes to show."
)
@_output(
    "--mistakes", type=click.IntRange(0), default=EvaluateOptions.mistakes, help="Most confident mistakes to show."
)
@_output("--json", type=_file, help="Write the figures as a JSON object; - prints it instead of the table.")
@_output(
    "--predictions",
    type=_file,
    help="Write file name and five likeliest classes of each record, a JSON object per line.",
)
@_output(
    "--ilsvrc",
    type=_file,
    help="Write an ILSVRC2012 submission: the ids of the five likeliest classes of each validation image, one line per"
    " image. Needs --devkit, and a dataset packed from the ILSVRC2012 archives.",
)
@_output("--devkit", type=_file, help="ILSVRC2012_devkit_t12.tar.gz, or the folder that holds it, for --ilsvrc.")
@_output("--skipped", type=_file, help="DATA/skipped.jsonl, for --ilsvrc, if alexnet-pack skipped validation images.")
@_output("--features", metavar="LAYER", help="Write the outputs of fc6 or fc7 for each centre view instead.")
@_output(
    "--out",
    type=_file,
    help="FILE.npy of --features, images x units; beside it FILE.labels.npy, FILE.records.npy and FILE.names.json.",
)
def main(log_level: str, **options: Any) -> None:
    """Evaluate checkpoints of alexnet-trainer on the images of alexnet-loader.

    CHECKPOINT is a file, or a run's folder: its best checkpoint, else its newest. Several are evaluated each alone and
    all together, their probabilities averaged.

    Files appear complete, at the end. FIFOs and devices are written to, and - is stdout: the table then goes to stderr.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        asked = EvaluateOptions(**fields_of(options))
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
