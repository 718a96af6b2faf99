"""`alexnet-predict`."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import predict

    predict()
    raise SystemExit

from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.console import result, tell
from common.cli.entry import interruptible
from common.cli.options import command, section
from trainer.cli.shared_options import devices
from trainer.predicting.predict_options import PredictOptions

_PROGRAM = "alexnet-predict"
_prediction, _output = section("Prediction"), section("Output")
_file = click.Path(path_type=Path)


@command(_PROGRAM)
@click.argument("run", metavar="RUN", type=_file)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=_file)
@_prediction(
    "--with", type=_file, multiple=True, help="Another RUN: probabilities are averaged over all of them; repeatable."
)
@_prediction("--weights", show_default="all equal", help="Weight of RUN and of each --with, in order, such as 1,1,2.")
@_prediction(
    "--views",
    type=click.Choice(["1", "10"]),
    default=str(PredictOptions.views),
    help="The centre; or corners, centre and their mirror images, probabilities averaged.",
)
@_prediction("--top", type=click.IntRange(1), default=PredictOptions.top, help="Likeliest classes to tell.")
@_prediction(
    "--words",
    type=_file,
    help="Descriptions to tell beside class names: words.txt, LOC_synset_mapping.txt or ILSVRC2012_devkit_t12.tar.gz.",
)
@devices("--gpus", show_default="the first", help="GPU to compute on, such as 0; further ones stay idle.")
@devices("--cpu", is_flag=True, help="Compute on the CPU.")
@devices(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    show_default="tf32 on GPUs, fp32 on a CPU",
    help="Precision of the layers.",
)
@devices("--threads", type=click.IntRange(1), show_default="all cores", help="CPU threads that compute.")
@devices("--batch-size", type=click.IntRange(1), default=PredictOptions.batch_size, help="Images per batch.")
@_output("--json", type=_file, help="Write all of it as a JSON object; - prints it instead of the table.")
@_output("--csv", type=_file, help="Write a line for each file; - prints them instead of the table.")
def main(log_level: str, **options: Any) -> None:
    """Tell what is in image files: the likeliest classes of each, by a network of alexnet-trainer. No loader is needed.

    RUN is a checkpoint, or a run's folder: its best checkpoint, else its newest. IMAGE is an image file, or a folder,
    read with all folders in it. Images are made into the pixels that alexnet-pack stores.

    If folders directly in an IMAGE folder have names of classes, these are the truth for the images in them: each is
    told right or wrong, and errors are printed.

    Files that are no image are named on stderr and left out; if all are, the exit code is 1. Output files appear
    complete, at the end. FIFOs and devices are written to, and - is stdout: errors then go to stderr.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        others, views = options.pop("with"), int(options.pop("views"))
        asked = PredictOptions(others=others, views=views, **options)
        from trainer.predicting.predict import predict

        interruptible()
        if errors := predict(asked).text():
            (tell if asked.fills_stdout else result)(errors)
