"""An `alexnet-loader` of a report's own, on a Unix socket, for as long as it is read."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from common.errors import AlexNetError, UsageError
from common.own_folder import own_folder

START_S = 60.0  # for the loader to serve
STOP_S = 10.0  # for it to end after SIGTERM
_LOOK_S = 0.05
_PREFIX = "alexnet-report-"
_OPTIONS = "ALEXNET_LOADER_"  # variables that set options of the user's own loader
_USAGE = 2  # the exit code of a wrong path


@contextlib.contextmanager
def serving(data: Path) -> Iterator[str]:
    """The endpoint of a loader of `data`, which ends with the block, by SIGTERM and SIGKILL too.

    Raises UsageError if `data` cannot be served, AlexNetError if it is not served in START_S.
    """
    with _sigterm_as_exit(), own_folder(_PREFIX) as folder:
        log, ready, socket = (folder / name for name in ("log", "ready", "socket"))
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*_command(data), "--bind", f"ipc://{socket}", "--ready-file", str(ready)],
                env={name: value for name, value in os.environ.items() if not name.startswith(_OPTIONS)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is the report's
            )
        try:
            yield _endpoint(process, ready, log, data)
        finally:
            _end(process)


def _command(data: Path) -> list[str]:
    tied = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    workers = str(max(1, min(4, os.cpu_count() or 1)))
    command = [sys.executable, "-P", "-m", "loader.cli.serve_command"]
    return [*tied, *command, "--data", str(data.resolve()), "--workers", workers, "--decoded-gib", "0"]


def _endpoint(process: "subprocess.Popen[bytes]", ready: Path, log: Path, data: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if ready.exists() and (endpoint := ready.read_text().strip()):
            return endpoint
        if (code := process.poll()) is not None:
            kind = UsageError if code == _USAGE else AlexNetError
            raise kind(f"--data {data}: alexnet-loader did not start: {_last_words(log)}")
        time.sleep(_LOOK_S)
    raise AlexNetError(f"--data {data}: alexnet-loader was not ready within {START_S:.0f} s: {_last_words(log)}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() or ["it wrote nothing"]
    return lines[-1].rpartition("error: ")[2]


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
