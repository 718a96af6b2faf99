"""A trainer killed in the midst of its saves, one kill after the other, ends as one that nothing happened to."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import same_tensors
from tests.support.dying import DEATHS
from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess
from tests.support.tiny_run import lines, without_times
from tests.support.trainer_process import finish, start
from trainer.checkpoints import checkpoint
from trainer.checkpoints.files import PARTIAL

NEW = ["--recipe", "demo", "--width", "0.02", "--batch-size", "50"]  # 3 steps an epoch
LIMITS = ["--steps", "12", "--checkpoint-minutes", "0", "--log-steps", "1"]


@pytest.fixture(scope="module")
def loader(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader"), workers=1) as service:
        yield service


def history(run: Path) -> dict[str, list[dict[str, Any]]]:
    return {kind: without_times(lines(run, kind)) for kind in ("step", "epoch")}


def test_a_trainer_killed_while_saving_naming_linking_and_pruning_ends_with_the_same_bits_and_metrics(
    loader: LoaderProcess, tmp_path: Path
) -> None:
    common = ["--cpu", "--threads", "1", "--loader", loader.endpoint, *LIMITS]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert finish(start(*common, *NEW, "--run", undisturbed, cwd=tmp_path))[0] == 0
    how_to_begin, left_behind = NEW, list[str]()
    for moment, times in (("link", 1), ("write", 3), ("name", 2), ("prune", 2)):
        options = [*common, *how_to_begin, "--run", str(killed)]
        process = subprocess.run(
            [sys.executable, "-m", "tests.support.dying", moment, str(times), *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert process.returncode in DEATHS, (moment, process.stderr)
        left_behind += [path.name for path in killed.glob(f"*{PARTIAL}")]
        how_to_begin = ["--resume"]
    assert len(left_behind) == 2, "one was half written, one had no name yet"
    code, _, err = finish(start(*common, "--resume", "--run", killed, cwd=tmp_path))
    assert code == 0, err
    assert not any("passed over" in line for line in err)
    for newest_of in (checkpoint.newest, lambda run: run / checkpoint.BEST):
        assert same_tensors(newest_of(killed), newest_of(undisturbed))
        assert checkpoint.load(newest_of(killed)).state == checkpoint.load(newest_of(undisturbed)).state
    assert history(killed) == history(undisturbed)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in undisturbed.iterdir())
