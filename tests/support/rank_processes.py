"""Ranks of a run, started without a launcher: forks of one process that has imported the trainer once."""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.processes import PATIENCE_S, children

_context = multiprocessing.get_context("forkserver")


class Ranks:
    """`alexnet-trainer` with `options`, as `ranks` processes.

    own         by rank, options of that rank alone
    restarted   that rank is
    """

    def __init__(
        self,
        folder: Path,
        ranks: int,
        *options: str | Path,
        own: dict[int, Sequence[str]] | None = None,
        restarted: int | None = None,
    ) -> None:
        _context.set_forkserver_preload(["trainer.training.launch", "trainer.cli.train_command"])
        port = free_port()
        self.outputs = [folder / f"rank-{rank}-{port}.output" for rank in range(ranks)]
        self.processes: list[BaseProcess] = []
        for rank, output in enumerate(self.outputs):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = {name: str(number) for name, number in places.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
            environment |= {"TORCHELASTIC_RESTART_COUNT": "1"} if rank == restarted else {}
            arguments = [*map(str, options), *(own or {}).get(rank, ())]
            process = _context.Process(target=_command, args=(environment, arguments, str(output)), daemon=True)
            process.start()
            self.processes.append(process)

    def wait(self) -> list[int | None]:
        """Their exit codes."""
        for process in self.processes:
            process.join(PATIENCE_S)
        return [process.exitcode for process in self.processes]

    def output(self, rank: int) -> str:
        return self.outputs[rank].read_text() if self.outputs[rank].exists() else ""


class LaunchedRanks:
    """`alexnet-trainer --ranks` with `options`; use in a `with` block."""

    def __init__(self, folder: Path, *options: str | Path) -> None:
        _context.set_forkserver_preload(["trainer.training.launch", "trainer.cli.train_command"])
        self._output = folder / f"launcher-{free_port()}.output"
        arguments = [*map(str, options)]
        self.process: BaseProcess = _context.Process(
            target=_command, args=({"OMP_NUM_THREADS": "1"}, arguments, str(self._output)), daemon=True
        )
        self.process.start()

    @property
    def pids(self) -> list[int]:
        """Process ids of the ranks, in order."""
        return sorted(children(self.process.pid or 0), key=_rank_of)

    def signal_all(self, number: signal.Signals) -> None:
        for pid in [self.process.pid or 0, *self.pids]:
            with contextlib.suppress(ProcessLookupError):  # told by the launcher, and gone
                os.kill(pid, number)

    def wait(self) -> int | None:
        self.process.join(PATIENCE_S)
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def __enter__(self) -> "LaunchedRanks":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def torchrun(folder: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Two ranks of `alexnet-trainer`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--"]
    command = [*launcher, str(Path(sys.executable).parent / "alexnet-trainer"), *words]
    with (folder / f"torchrun-{free_port()}.output").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _rank_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(word.partition(b"=")[2]) for word in words if word.startswith(b"RANK="))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(environment: dict[str, str], arguments: list[str], output: str) -> None:
    from trainer.cli.train_command import main

    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.argv = ["alexnet-trainer", *arguments]
    main(arguments)
