"""`alexnet-report`."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from trainer.cli import report

    report()
    raise SystemExit

from pathlib import Path
from typing import Any

import click

from common.cli import log as logs
from common.cli.console import say, tell
from common.cli.entry import interruptible
from common.cli.options import command, section
from common.cli.outputs import STDOUT
from trainer.cli.shared_options import data, device_options, fields_of, more_loader_options
from trainer.reporting.report_options import ReportOptions

_PROGRAM = "alexnet-report"
_page = section("Page")
_path = click.Path(path_type=Path)


@command(_PROGRAM)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_path)
@_page("--out", type=_path, default=ReportOptions.out, help="HTML file to write; - is stdout.")
@_page("--figures", type=_path, help="Folder for the plots as SVG and the filters as PNG, too.")
@_page("--watch", is_flag=True, help="Renew the page, which reloads itself, until the runs end or Ctrl-C.")
@_page(
    "--every",
    type=click.FloatRange(0.1, 86400),
    default=ReportOptions.every_s,
    help="Seconds between two versions of the page, with --watch.",
)
@_page(
    "--reach",
    type=click.FloatRange(0, 100),
    default=ReportOptions.reach,
    help="Training error in percent; the page tells after how many epochs each run reached it.",
)
@data("--loader", multiple=True, help="Endpoint of an alexnet-loader to read images from; repeatable.")
@data("--data", type=_path, help="Packed dataset to read images from, by an alexnet-loader of this command's own.")
@more_loader_options
@data("--batch-size", type=click.IntRange(1), default=ReportOptions.batch_size, help="Images per batch.")
@data(
    "--val-images",
    type=click.IntRange(1),
    default=ReportOptions.val_images,
    help="Validation images to answer, at most.",
)
@data(
    "--train-images",
    type=click.IntRange(1),
    default=ReportOptions.train_images,
    help="Training images among which to find the nearest, at most.",
)
@data("--pictures", type=click.IntRange(1, 100), default=ReportOptions.pictures, help="Images shown with answers.")
@data("--mistakes", type=click.IntRange(0, 100), default=ReportOptions.mistakes, help="Mistakes shown, at most.")
@device_options
def main(log_level: str, **options: Any) -> None:
    """Write a page about runs of alexnet-trainer: curves, filters, answers, mistakes, recipe and environment.

    RUN is a run's folder; of several the curves lie over each other. The page is one file that asks no host for
    anything. Filters come from the run's best checkpoint, else its newest; answers, mistakes, nearest images,
    augmentations and colour components need a loader, and are left out without one. They are computed on GPUs if there
    are any.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        asked = ReportOptions(**fields_of(options))
        asked.refuse_what_excludes_each_other()
        from trainer.reporting.watching import make

        interruptible()
        assembly = make(asked)
        (tell if asked.out == STDOUT else say)(f"report in {asked.out}")
        if assembly.failure is not None:
            raise assembly.failure
