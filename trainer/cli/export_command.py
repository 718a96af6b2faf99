"""`alexnet-export`."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import export

    export()
    raise SystemExit

from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.console import result
from common.cli.entry import interruptible
from common.cli.options import command, section
from trainer.export.export_options import FORMATS, ExportOptions

_PROGRAM = "alexnet-export"
_output, _devices = section("Output"), section("Devices")
_path = click.Path(path_type=Path)


@command(_PROGRAM)
@click.argument("run", metavar="RUN", type=_path)
@_output(
    "--to",
    type=click.Choice(FORMATS),
    help="onnx: a graph with a free batch size; torch: a torch.export program; safetensors: weights and mean image, for"
    " alexnet2012. Recipe and class names are in the file's metadata.",
)
@_output("--out", type=_path, help="File to write: .onnx, .pt2 or .safetensors.")
@_output(
    "--hub", type=_path, help="Folder for a model hub: config.json, model.safetensors and a model card, README.md."
)
@_devices("--threads", type=click.IntRange(1), show_default="all cores", help="CPU threads that compute.")
def main(log_level: str, **options: Any) -> None:
    """Export a trained network to a file that runs without this program.

    RUN is a run's folder, its best checkpoint, else its newest; or a checkpoint. The network takes uint8 images, N x 3
    x 256 x 256, RGB, and gives logits of the centre view; mean image, scale and crop are in it.

    Each file is run, and its answers on drawn images compared with the run's own, before it gets its name. An existing
    file is replaced.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        asked = ExportOptions(**options)
        asked.refuse_impossible()
        from trainer.export.export_run import export_run

        interruptible()
        for exported in export_run(asked):
            result(exported.text())
