"""`metrics.jsonl`: one JSON object a line, as trainer/README.md describes them; appended and flushed.

A resumed run first drops the lines past its checkpoint. Lines that a full disk refuses wait in memory; a checkpoint is
saved only after its whole history.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator
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
        self.flush()
        self.fsync()

    def flush(self) -> None:
        with self._as_save_error():
            self._write_pending()

    def fsync(self) -> None:
        """Put the written lines on the disk; any thread may. Raises SaveError."""
        with self._as_save_error():
            os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _as_save_error(self) -> Iterator[None]:
        try:
            yield
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
