"""The folder of a run."""

import contextlib
import itertools
from datetime import datetime
from pathlib import Path

from common.errors import UsageError


def run_folder(asked: Path | None, recipe_name: str) -> Path:
    """The run's folder, created if missing: --run, or runs/RECIPE-TIME."""
    try:
        if asked is not None:
            asked.mkdir(parents=True, exist_ok=True)
            return asked
        return _new_folder(f"{recipe_name}-{datetime.now():%Y%m%d-%H%M%S}")
    except OSError as error:
        raise UsageError(f"the run's folder {error.filename} cannot be made: {error.strerror} (--run)") from None


def _new_folder(stem: str) -> Path:
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (folder := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).mkdir(parents=True)
            return folder
    raise AssertionError("counting does not end")
