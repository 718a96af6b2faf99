"""Real processes: a loader service, its workers, and waiting for them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

PATIENCE_S = 180.0
ANY_PORT = "tcp://127.0.0.1:*"
KEEPS_NOTHING = ("--decoded-gib", "0")  # every image is decoded for every epoch

Result = TypeVar("Result")

_PROGRESS = re.compile(r".*[\d,]+ of [\d,]+ \(\d+ %\), .*|.*[\d,]+/[\d,]+ files  .*")


def lines_but_progress(errors: str) -> list[str]:
    """Lines on stderr but those that a slow machine adds, every ten seconds."""
    return [line for line in errors.splitlines() if not _PROGRESS.fullmatch(line)]


def wait_for(what: str, found: Callable[[], Result | None]) -> Result:
    """Wait until `found` returns something, however slow the machine; fail by name if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}")


def children(pid: int) -> list[int]:
    """Process ids of the living children of `pid`."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_line(pid: int | str) -> str:
    """Its words, each followed by NUL; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; none if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def alive(pid: int) -> bool:
    """Return True if the process runs, False for a zombie."""
    return status(pid).get("State", "X")[0] not in "ZX"


def ignores_ctrl_c(pid: int) -> bool:
    return bool(int(status(pid).get("SigIgn", "0"), 16) & 1 << (signal.SIGINT - 1))


def memory_mib(pid: int) -> float:
    """Memory of the process, without shared memory."""
    return int(status(pid)["RssAnon"].split()[0]) / 1024


class LoaderProcess:
    """`alexnet-loader` on a port of its own, ready to serve, in a `with` block.

    prefix     a command to run it by, which becomes it
    restarts   the command starts a dead service again, as for users; otherwise the service is the process started
    endpoint   of the first service, of all `endpoints`
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        workers: int = 2,
        bind: str = ANY_PORT,
        *more: str,
        prefix: Sequence[str] = (),
        restarts: bool = False,
    ) -> None:
        self._restarts = restarts
        more = more if restarts else (*more, "--no-restart")
        self.ready_file = ready_file = folder / f"ready-{time.monotonic_ns()}"
        self.log = folder / f"{ready_file.name}.log"
        command = [
            *prefix,
            sys.executable,
            "-m",
            "loader.cli.serve_command",
            "--data",
            str(data),
            "--workers",
            str(workers),
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--bind", bind, "--ready-file", str(ready_file), *more], stderr=log, stdin=subprocess.DEVNULL
            )
        wait_for("the loader to be ready or to end", lambda: ready_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        told = ready_file.read_text().split()
        self.endpoints = [each for each in told if not each.startswith("http:")]
        self.endpoint, self.figures_at = self.endpoints[0], told[len(self.endpoints) :]

    @property
    def pid(self) -> int:
        if not self._restarts:
            return self.process.pid
        return wait_for("the service", lambda: next(filter(alive, children(self.process.pid)), None))

    @property
    def workers(self) -> list[int]:
        return children(self.pid)

    @property
    def bound_workers(self) -> list[int]:
        """Workers past their start: ignoring Ctrl-C comes after the bond that ends even a stopped worker with its
        service.
        """
        return [pid for pid in self.workers if ignores_ctrl_c(pid) and status(pid).get("State", "X")[0] not in "TtZX"]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command, and wait for the service to be gone too."""
        family = [self.process.pid, *children(self.process.pid)]
        self.process.kill()
        self.process.wait()
        wait_for("the service to be gone", lambda: not any(map(alive, family)))

    def __enter__(self) -> "LoaderProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
