"""Ranks of a run, started without a launcher: forks of one process that has imported the trainer once."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.processes import PATIENCE_S

_context = multiprocessing.get_context("forkserver")


class Ranks:
    """`alexnet-trainer` with `options`, as `ranks` processes.

    own    by rank, options of that rank alone
    """

    def __init__(
        self, folder: Path, ranks: int, *options: str | Path, own: dict[int, Sequence[str]] | None = None
    ) -> None:
        _context.set_forkserver_preload(["trainer.training.launch", "trainer.cli.train_command"])
        port = free_port()
        self.outputs = [folder / f"rank-{rank}-{port}.output" for rank in range(ranks)]
        self.processes: list[BaseProcess] = []
        for rank, output in enumerate(self.outputs):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = {name: str(number) for name, number in places.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
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
