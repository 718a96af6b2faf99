"""The command line, printed by a stopped run, that resumes it."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.errors import LoaderError, LoaderTimeout
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import train_with
from trainer.cli import train_command
from trainer.training import launch
from trainer.training.resuming import _OPTIONS, resume_command
from trainer.training.train_options import TrainOptions

STORED = {  # by a checkpoint
    "precision", "recipe", "ablate", "width", "epochs", "batch_size", "seed", "data_seed", "rate", "on_bad_record",
    "digests", "threads", "parts",
}  # fmt: skip
OF_ONE_RUN = {"profile", "folder", "resume", "resume_if_begun", "init", "rendezvous", "run_id"}


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """The options that alexnet-trainer would run with."""
    taken: list[TrainOptions] = []

    def stop(options: TrainOptions) -> Any:
        taken.append(options)
        raise LoaderTimeout("enough")

    monkeypatch.setattr(launch, "run", stop)
    name, *words = shlex.split(command)
    assert name == "alexnet-trainer"
    CliRunner().invoke(train_command.main, words)
    return taken[0]


def test_every_option_that_no_checkpoint_holds_is_told_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given = TrainOptions(
        gpus="0",
        net="halves",
        exchange="host",
        cuda_graphs=False,
        loaders=("tcp://a:5555", "ipc:///run/it's here"),
        loaders_file=Path("hosts of mine.txt"),
        loader_timeout_s=2.5,
        keys=Path("keys"),
        checkpoint_minutes=0.5,
        keep=7,
        log_steps=3,
        steps=1000,
        tensorboard=True,
        gpus_per_rank=1,
        reduce="fast",
        rank_timeout_s=8.5,
        restarts=0,
        recipe="paper",
        rate=0.1,
    )
    command = resume_command(given, Path("runs/my first; rm -r"))
    back = parsed(command, monkeypatch)
    assert (back.resume, back.folder, back.recipe, back.rate) == (True, Path("runs/my first; rm -r"), None, None)
    assert {name: getattr(back, name) for name in _OPTIONS} == {name: getattr(given, name) for name in _OPTIONS}
    assert {field.name for field in fields(TrainOptions)} == _OPTIONS.keys() | STORED | OF_ONE_RUN


def test_nodes_resume_by_the_same_command_on_each_but_meet_elsewhere() -> None:
    given = TrainOptions(ranks=2, nodes=4, rendezvous="node-0:29400", run_id="7.0", cpu=True, restarts=1)
    assert resume_command(given, Path("/shared/a")) == (
        "alexnet-trainer --resume --run /shared/a --cpu --ranks 2 --nodes 4 --restarts 1 --rendezvous HOST:PORT"
    )


def test_a_plain_run_is_resumed_by_a_short_command() -> None:
    assert resume_command(TrainOptions(cpu=True), Path("runs/a")) == "alexnet-trainer --resume --run runs/a --cpu"


def test_a_run_whose_loader_is_gone_tells_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loader = MemoryLoader()

    def be_gone(spec: StreamSpec, epoch: int, position: int) -> None:
        if position == 8:
            raise LoaderTimeout("no loader answers")

    loader.on_ask = be_gone
    with pytest.raises(LoaderError) as gone:
        train_with(monkeypatch, loader, tmp_path)()
    _, _, command = str(gone.value).partition("; to continue: ")
    assert parsed(command, monkeypatch).folder == tmp_path / "run"
