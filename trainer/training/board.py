"""A run in TensorBoard: the numbers of metrics.jsonl, and images.

    RUN/tensorboard/steps     scalars of the "step" lines
    RUN/tensorboard/epochs    scalars of the "epoch" lines, over epochs from 1; the first layer's filters after each,
                              0 being the initial ones; and images that it begins with, as the network sees them

If the disk refuses events, training continues without them.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import UsageError

log = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

FOLDER = "tensorboard"
COLUMNS = 16  # of filters in a row, as in the paper's Fig. 3
_FLUSH_S = 10
_GAP, _GROUP_GAP = 1, 4  # black pixels between tiles, and between groups

STEP_SCALARS = ("loss", "train_error", "learning_rate", "images_per_s", "wait_share", "decoded_share")
EPOCH_SCALARS = (
    "train_loss", "train_error", "val_loss", "val_top1_error", "val_top5_error", "learning_rate", "images_per_s",
    "wait_share", "decoded_share",
)  # fmt: skip


class Board:
    """Writes the events of a run, from `step` and `epoch` on. Use in a `with` block.

    Raises UsageError if TensorBoard is not installed, or the folder is not writable.
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
        if kind == "step":
            self._write(lambda: _scalars(self._steps, line, STEP_SCALARS, line["step"]))
        elif kind == "epoch":
            self._write(lambda: _scalars(self._epochs, line, EPOCH_SCALARS, line["epoch"] + 1))

    def image(self, name: str, image: Image, epochs: int) -> None:
        self._write(lambda: self._epochs.add_image(name, image, epochs, dataformats="HWC"))

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
    """Wait, a second at most, until a new file's name, which has its second, sorts after the existing ones."""
    begun = [int(path.name.split(".")[3]) for path in folder.glob("*/events.out.tfevents.*")]
    remaining_s = max(begun, default=0) + 1 - time.time()
    if 0 < remaining_s <= 1:
        time.sleep(remaining_s)


def writer_type() -> Any:
    """TensorBoard's SummaryWriter. Raises UsageError if it is not installed."""
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


def filters_image(weights: npt.NDArray[np.float32], groups: int = 2) -> Image:
    """The filters of the first layer, half 0's above half 1's, as in Fig. 3 of the paper.

    Each is scaled to its own range, zero to 128.

    weights   n x 3 x height x width, n a multiple of `groups`
    """
    farthest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights / np.where(farthest > 0, farthest, 1)
    tiles = np.rint(128 + 127 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    sheets = [tiled(group, COLUMNS) for group in np.split(tiles, groups)]
    gap = np.zeros((_GROUP_GAP, *sheets[0].shape[1:]), np.uint8)
    return np.concatenate([part for sheet in sheets for part in (gap, sheet)][1:])


def tiled(images: npt.NDArray[np.uint8], columns: int) -> Image:
    """Images, n x height x width x 3, in rows of `columns`."""
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + _GAP) - _GAP, min(n, columns) * (width + _GAP) - _GAP, 3), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet
