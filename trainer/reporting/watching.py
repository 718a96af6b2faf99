"""A report that follows its runs."""

import contextlib
import logging
import time
from pathlib import Path

from trainer.checkpoints import checkpoint
from trainer.reporting.assembly import ANSWERS, TRAINING, Assembly
from trainer.reporting.history import is_training
from trainer.reporting.report_options import ReportOptions
from trainer.training.metrics import FILE_NAME

log = logging.getLogger(__name__)

WAITS = f"{ANSWERS.capitalize()}, {TRAINING}: they come when training has ended"
_LOOK_S = 0.5


def make(options: ReportOptions) -> Assembly:
    """Write the report of `options`, at once, or until its runs end or Ctrl-C. Raises any AlexNetError."""
    assembly = Assembly(options)
    assembly.page()  # raises if a folder is no run
    options.refuse_unwritable_files()
    if options.watch:
        _follow(assembly, options)
    assembly.add_filters()
    assembly.add_images()
    assembly.write(assembly.page())
    assembly.write_figures()
    return assembly


def _follow(assembly: Assembly, options: ReportOptions) -> None:
    seen: object = None
    saved: object = None
    try:
        while any(is_training(run) for run in options.runs):
            if seen is None:
                log.info("%s follows training; Ctrl-C ends it", options.out)
            if (now := [_size(run / FILE_NAME) for run in options.runs]) != seen:
                seen = now
                if (checkpoints := [_saved(run) for run in options.runs]) != saved:
                    saved = checkpoints
                    assembly.add_filters()
                assembly.write(assembly.page(reload_s=options.every_s, waits=WAITS))
            _wait(options)
    except KeyboardInterrupt:
        assembly.write(assembly.page())  # without reloading itself
        raise


def _wait(options: ReportOptions) -> None:
    """Sleep until the next look; return at once when no run is training."""
    until = time.monotonic() + options.every_s
    while (left_s := until - time.monotonic()) > 0 and any(is_training(run) for run in options.runs):
        time.sleep(min(_LOOK_S, left_s))


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _saved(run: Path) -> list[str]:
    """Names of the run's checkpoints, the best's with its time."""
    best = run / checkpoint.BEST
    times = [str(best.stat().st_mtime_ns)] if best.exists() else []
    return [path.name for path in checkpoint.all_in(run)] + times
