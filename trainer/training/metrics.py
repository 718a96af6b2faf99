"""`metrics.jsonl`: one JSON object a line, appended and flushed, readable during the run.

kind "run", once at each start or resume
    step, epoch              where it starts; 0 and 0 for a new run
    recipe                   the recipe as an object
    net, devices             "halves" or "one-device", and the device of each half
    seed, data_seed          of weights and dropout; of order and augmentation
    threads                  of torch on the CPU
    precision                fp32, tf32 or bf16
    versions                 of python, torch, the package and the loader's decoder
    dataset                  train_records, val_records (null without validation), classes, digest
    changed                  of a resume: the changes, as {"recipe.phase[1].rate": [before, after]}; learning_rate: of
                             the next step without them, and with them
    init                     of a run with --init: checkpoint, its step and its dataset's digest, and weights, by name
                             "taken" or why they were initialised; else null
kind "step", every so many steps
    step, epoch              steps done so far in the whole run; epoch from 0
    loss                     mean over this step's batch
    train_error              share of wrong top-1 answers since the last such line, 0 to 1
    learning_rate            of the weights
    images_per_s             since the last such line
    wait_share               share of that time spent waiting for data, 0 to 1
    waits                    the same by reason, as an object; see below
    decoded_share            share of the images since that the loader had decoded before, 0 to 1
kind "epoch", at the end of each
    step, epoch
    train_loss, train_error  means over the epoch's images as they were trained on (dropout, crops, noise)
    val_loss, val_top1_error, val_top5_error    null without validation; errors are shares, 0 to 1, and the last is
                             null with five classes or fewer too
    learning_rate
    train_seconds, val_seconds, images_per_s, wait_share, waits, decoded_share    of training; images_per_s leaves
                             validation out
    replaced                 corrupt records of the epoch that another one replaced
    digest                   of its records and pixels, in hex, as `alexnet-loader audit` finds it; null without
                             --digest, or if a part of the epoch was trained without
    stream                   the training stream: split, seed, view, crop, sigma, pixels, on_bad_record,
                             shuffle

waits, whose shares add up to wait_share (how a wait is divided: `common/client/waits.py`)
    no_loader                no loader had the ticket: all were gone or silent, or it was retried
    workers_busy             all of the loader's workers were busy with other tickets
    free_slot                this trainer held all its slots in the loader's memory
    read, decode, augment    a worker was busy with it
    wire                     in transit: sockets, copies, scheduling of loader and trainer

A resumed run first drops the lines past its checkpoint, so the file is one history without repeats. Lines that a full
disk refuses wait in memory until there is room; a checkpoint is saved only after its whole history.
"""

import fcntl
import json
import logging
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import SaveError, UsageError
from trainer.checkpoints.files import reason

log = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"


class Metrics:
    """The metrics file of a run folder, locked against a second trainer."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / FILE_NAME
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror} (--run)") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(f"another trainer is writing in {run_folder}; give this one its own --run") from None
        self._pending = bytearray()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, kind: str, **values: Any) -> None:
        """Append one line, or keep it until the disk has room; nan and inf are written as null."""
        line = json.dumps({"kind": kind} | {key: _json_number(value) for key, value in values.items()})
        waited = bool(self._pending)
        self._pending += line.encode() + b"\n"
        try:
            self._write_pending()
        except OSError as error:
            if not waited:
                log.warning("%s; its lines wait in memory", self._refusal(error))

    def sync(self) -> None:
        """Put all lines on the disk. Raises SaveError."""
        try:
            self._write_pending()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SaveError(self._refusal(error)) from None

    def _write_pending(self) -> None:
        while self._pending:
            del self._pending[: self._file.write(self._pending)]  # a disk that fills takes a part

    def _refusal(self, error: OSError) -> str:
        return f"{self.path} cannot be written: {reason(error, self.path.parent, len(self._pending))}"

    def rewind(self, step: int, epoch: int) -> None:
        """Drop the lines past a checkpoint at `step`, in `epoch`, and a torn last line."""
        keep_bytes = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not _is_before(line, step, epoch):
                    break
                keep_bytes += len(line)
        self._file.truncate(keep_bytes)  # lines are appended wherever the end is


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _is_before(line: bytes, step: int, epoch: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        entry = json.loads(line)
        if entry["kind"] == "epoch":
            return bool(entry["epoch"] < epoch)
        return bool(entry["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
