"""A run in TensorBoard: `tensorboard --logdir RUN` shows what metrics.jsonl says, and pictures.

    RUN/tensorboard/steps     scalars of the "step" lines, over steps
    RUN/tensorboard/epochs    scalars of the "epoch" lines over epochs, counted from 1; the first layer's filters after
                              each (`trainer/training/filters.py`), 0 being those that training begins with; and 16
                              pictures as the network sees them, the first of each epoch, or after a resume

A resumed run takes back what lies past its checkpoint, as metrics.jsonl does. That is the record of a run: where the
disk does not take the events, it is said once, and training goes on without them.

TensorBoard reads the files of a folder in the order of their names, which begin with the second they were begun in.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UsageError
from trainer.training.filters import Picture

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
_FLUSH_S = 10

STEP_SCALARS = ("loss", "train_error", "learning_rate", "images_per_s", "wait_share")
EPOCH_SCALARS = (
    "train_loss", "train_error", "val_loss", "val_top1_error", "val_top5_error", "learning_rate", "images_per_s",
    "wait_share",
)  # fmt: skip


class Board:
    """Writes the events of the run in `run_folder`, which goes on at `step`, in `epoch`. Use in a `with` block.

    Raises UsageError where TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, run_folder: Path, step: int, epoch: int) -> None:
        self._folder, self._works = run_folder / FOLDER, True
        writer = writer_type()
        wait_for_a_later_name(self._folder)
        try:
            self._steps = writer(self._folder / "steps", purge_step=step + 1, flush_secs=_FLUSH_S)
            first_epoch = epoch + 1 if step > 0 else 0
            self._epochs = writer(self._folder / "epochs", purge_step=first_epoch, flush_secs=_FLUSH_S)
        except OSError as error:
            raise UsageError(f"{self._folder} cannot be written: {error.strerror} (--tensorboard)") from None

    def line(self, kind: str, line: Mapping[str, Any]) -> None:
        """What was written to metrics.jsonl, if it is of a kind that has scalars."""
        if kind == "step":
            self._write(lambda: _scalars(self._steps, line, STEP_SCALARS, line["step"]))
        elif kind == "epoch":
            self._write(lambda: _scalars(self._epochs, line, EPOCH_SCALARS, line["epoch"] + 1))

    def picture(self, name: str, picture: Picture, epochs: int) -> None:
        """Over epochs, counted from 1."""
        self._write(lambda: self._epochs.add_image(name, picture, epochs, dataformats="HWC"))

    def _write(self, write: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            write()
        except OSError as error:
            self._works = False
            log.warning("%s cannot be written: %s; this run has no more events", self._folder, error)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self._write(self._steps.close)
        self._write(self._epochs.close)


def wait_for_a_later_name(folder: Path) -> None:
    """Return when a file that is begun now comes after those that are there; a second at most.

    Where a clock was set back by more, the new file comes first, and what was done twice is shown twice.
    """
    begun = [int(path.name.split(".")[3]) for path in folder.glob("*/events.out.tfevents.*")]
    remaining_s = max(begun, default=0) + 1 - time.time()
    if 0 < remaining_s <= 1:
        time.sleep(remaining_s)


def writer_type() -> Any:
    """TensorBoard's SummaryWriter. Raises UsageError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs TensorBoard: pip install 'alexnet[tensorboard]'") from None
    return SummaryWriter


def _scalars(writer: Any, line: Mapping[str, Any], names: tuple[str, ...], at: int) -> None:
    for name in names:
        if line[name] is not None:
            writer.add_scalar(name, line[name], at)
    for reason, share in line["waits"].items():
        writer.add_scalar(f"waits/{reason}", share, at)
